package replication_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres/replication"
)

func TestMain(m *testing.M) {
	testkit.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction("github.com/berth-dev/berth/process.init.func1.1"))
	})
}

// pairs are the servers that a database is moved between.
var pairs = [][2]int{{15, 17}, {15, 18}}

// world is a tenant's database on one server, and another server.
type world struct {
	*testing.T
	from, to *testkit.PostgresServer
	database string
	pair     replication.Pair
}

// newWorld fills the source with what makes a move hard.
func newWorld(t *testing.T, from, to int) *world {
	t.Helper()
	w := &world{T: t, from: testkit.NewPostgres(t, from), to: testkit.NewPostgres(t, to), database: "app db"}
	bin := filepath.Join(testkit.Bin(t, "pg"), fmt.Sprint(from), "bin")
	w.pair = replication.Pair{
		Name: "berth_m_test", Tools: replication.Tools{Dump: filepath.Join(bin, "pg_dump"), Restore: filepath.Join(bin, "pg_restore")},
		NewSecret: func() (string, string) {
			password := "link-" + t.Name()
			return password, password // the server makes the verifier
		},
	}
	w.pair.From.Admin, w.pair.To.Admin = w.from.Target(), w.to.Target()
	w.pair.From.Admin.Database, w.pair.To.Admin.Database = w.database, w.database
	w.from.Exec(t, "", `
		CREATE ROLE tenant NOLOGIN; CREATE ROLE tenant_a LOGIN PASSWORD 'tenant-a' IN ROLE tenant; CREATE ROLE reader NOLOGIN;
		ALTER ROLE tenant_a SET role TO tenant; ALTER ROLE tenant_a SET search_path TO app, public;
		COMMENT ON ROLE tenant IS 'berth: {"cluster":"c","claim":"apps/app","kind":"DatabaseClaim"}'`)
	w.from.Exec(t, "", `CREATE DATABASE "app db" OWNER tenant TEMPLATE template0`)
	w.from.Exec(t, "", `REVOKE ALL ON DATABASE "app db" FROM PUBLIC; GRANT CONNECT ON DATABASE "app db" TO reader;
		ALTER DATABASE "app db" SET work_mem = '8MB'; ALTER ROLE tenant_a IN DATABASE "app db" SET statement_timeout = '7s'; COMMENT ON DATABASE "app db" IS 'the tenant''s'`)
	w.from.Exec(t, w.database, schema)
	w.from.Exec(t, w.database, rows)
	return w
}

const schema = `
	CREATE EXTENSION citext WITH SCHEMA public; CREATE EXTENSION pg_trgm WITH SCHEMA public;
	SET ROLE tenant;
	CREATE SCHEMA app; CREATE SCHEMA "odd ""name"; CREATE SCHEMA audit;
	CREATE TYPE app.mood AS ENUM ('sad', 'ok', 'happy');
	CREATE DOMAIN app.positive AS int CHECK (VALUE > 0);
	CREATE TABLE app.events (id bigserial PRIMARY KEY, uid uuid NOT NULL UNIQUE, by text NOT NULL DEFAULT current_user, at timestamptz NOT NULL DEFAULT now(), body jsonb);
	CREATE TABLE app.counters (name public.citext PRIMARY KEY, n bigint NOT NULL, m app.mood DEFAULT 'ok', p app.positive DEFAULT 1, double_n bigint GENERATED ALWAYS AS (n * 2) STORED);
	CREATE TABLE app.parts (id int GENERATED ALWAYS AS IDENTITY, day date NOT NULL, v text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
	CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
	CREATE TABLE app.parts_2 PARTITION OF app.parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
	CREATE INDEX ON app.parts (v);
	CREATE TABLE app.toasted (id int PRIMARY KEY, big text NOT NULL);
	CREATE TABLE "odd ""name"."Table ü" ("Key 1" text, "k%2" int, v numeric, f float8, "end" money, PRIMARY KEY ("Key 1", "k%2"));
	CREATE TABLE app.nokey (a int NOT NULL, b text, CONSTRAINT nokey_a UNIQUE (a));
	CREATE TABLE app.secrets (id int PRIMARY KEY, owner text, v text); ALTER TABLE app.secrets ENABLE ROW LEVEL SECURITY; ALTER TABLE app.secrets FORCE ROW LEVEL SECURITY;
	CREATE POLICY own ON app.secrets USING (owner = current_user);
	CREATE TABLE audit.log (id bigserial PRIMARY KEY, what text);
	CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO audit.log (what) VALUES (TG_OP); RETURN NEW; END $f$;
	CREATE TRIGGER noted AFTER INSERT OR UPDATE ON app.counters FOR EACH ROW EXECUTE FUNCTION audit.note();
	CREATE TABLE app.children (id int PRIMARY KEY, event bigint REFERENCES app.events (id), tags text[]);
	CREATE INDEX events_body ON app.events USING gin (body); CREATE INDEX events_trgm ON app.events USING gin (by public.gin_trgm_ops);
	CREATE VIEW app.happy AS SELECT e.id, e.by FROM app.events e WHERE e.body->>'mood' = 'happy';
	CREATE MATERIALIZED VIEW app.totals AS SELECT by, count(*) FROM app.events GROUP BY by; CREATE UNIQUE INDEX ON app.totals (by);
	CREATE SEQUENCE app.uncalled START 7; CREATE SEQUENCE app.down INCREMENT -3 MAXVALUE 100 START 100 CYCLE;
	GRANT USAGE ON SCHEMA app TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA app TO reader; GRANT UPDATE (n) ON app.counters TO reader;
	ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO reader;
	COMMENT ON TABLE app.events IS 'all; that
\happened'; COMMENT ON COLUMN app.events.body IS 'free';
	CREATE STATISTICS app.st ON id, tags FROM app.children;`

const rows = `
	INSERT INTO app.events (uid, body) SELECT gen_random_uuid(), jsonb_build_object('mood', CASE i % 3 WHEN 0 THEN 'happy' ELSE 'ok' END, 'i', i) FROM generate_series(1, 3000) i;
	INSERT INTO app.counters SELECT 'c' || i, i FROM generate_series(1, 50) i;
	INSERT INTO app.parts (day, v) SELECT date '2026-01-01' + i % 59, 'v' || i FROM generate_series(1, 500) i;
	INSERT INTO app.toasted SELECT i, (SELECT string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 400) j) FROM generate_series(1, 40) i;
	INSERT INTO "odd ""name"."Table ü" SELECT 'k' || i, i, i / 7.0, i / 3.0::float8, i FROM generate_series(1, 100) i;
	INSERT INTO "odd ""name"."Table ü" VALUES ('', 0, NULL, 'NaN', NULL), (E'tab\t\n', 1, 1.00, 'Infinity', 12);
	INSERT INTO app.nokey SELECT i, 'b' || i FROM generate_series(1, 100) i;
	INSERT INTO app.secrets SELECT i, 'tenant', 's' || i FROM generate_series(1, 20) i;
	INSERT INTO app.children SELECT i, i, ARRAY['a', NULL, 'ü'] FROM generate_series(1, 100) i;
	REFRESH MATERIALIZED VIEW app.totals; SELECT nextval('app.down'), nextval('app.down');`

// copied brings a pair to where both sides are alike and follow.
func (w *world) copied() {
	w.Helper()
	ctx, p := w.Context(), w.pair
	w.must(p.Begin(ctx, replication.Options{}))
	w.must(p.Connect(ctx, 1, true))
	w.eventually("every table is copied", func() bool {
		progress, err := p.ReadProgress(ctx, 1)
		w.must(err)
		return progress.Done()
	})
	w.must(p.CopyRest(ctx))
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// eventually waits for a condition, and fails with what was waited for.
func (w *world) eventually(what string, holds func() bool) {
	w.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	limit := time.NewTimer(40 * time.Second)
	defer limit.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-limit.C:
			w.Fatalf("not within 40 s: %s\nsource: %s\ntarget: %s", what, w.from.Log(), w.to.Log())
		}
	}
}

// content is everything of every table, as the testkit reads it: no code of
// the package under test has a hand in it.
func (w *world) content(s *testkit.PostgresServer) string {
	w.Helper()
	var out strings.Builder
	for _, t := range s.Query(w, w.database, `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
		WHERE schemaname !~ '^(pg_|information_schema|berth_m_)' ORDER BY 1`) {
		out.WriteString(t + "\n" + strings.Join(s.Query(w, w.database, "SET timezone = 'UTC'; SELECT t::text FROM "+t+` t ORDER BY t::text COLLATE "C"`), "\n") + "\n")
	}
	out.WriteString(strings.Join(s.Query(w, w.database, "SELECT schemaname, sequencename, last_value FROM pg_sequences WHERE schemaname !~ '^berth' ORDER BY 1, 2"), "\n"))
	return out.String()
}

// leftovers are what a migration must not leave on a server.
func (w *world) leftovers(s *testkit.PostgresServer, database string) []string {
	w.Helper()
	return s.Query(w, database, `SELECT 'slot ' || slot_name FROM pg_replication_slots UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname ~ '^berth'
		UNION ALL SELECT 'publication ' || pubname FROM pg_publication UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
		UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ '^berth' UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin
		UNION ALL SELECT 'closed ' || datname FROM pg_database WHERE datconnlimit = 0
		UNION ALL SELECT 'identity ' || relname FROM pg_class WHERE relreplident <> 'd' AND relkind = 'r' AND relnamespace > 16384`)
}

func (w *world) open(s replication.Side) *pgx.Conn {
	w.Helper()
	conn, err := s.Open(w.Context())
	w.must(err)
	w.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}
