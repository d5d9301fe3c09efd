package migration_test

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/migration"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/postgres/replication"
	"github.com/berth-dev/berth/process"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	testkit.Main(m)
}

const (
	database = "app"
	login    = "tenant_a"
	password = "tenant-password"
)

// world is a tenant's database, another server, and a proxy in between.
type world struct {
	*testing.T
	servers map[bool]*testkit.PostgresServer // by: is the target
	pair    replication.Pair
	proxy   *pooler
}

func newWorld(t *testing.T, from, to int) *world {
	t.Helper()
	w := &world{T: t, servers: map[bool]*testkit.PostgresServer{false: testkit.NewPostgres(t, from), true: testkit.NewPostgres(t, to)}}
	bin := filepath.Join(testkit.Bin(t, "pg"), fmt.Sprint(from), "bin")
	w.pair = replication.Pair{
		Name: "berth_m_switch", Tools: replication.Tools{Dump: filepath.Join(bin, "pg_dump"), Restore: filepath.Join(bin, "pg_restore")},
		NewSecret: func() (string, string) {
			secret := rand.Text()
			return secret, credential.Verifier(secret)
		},
	}
	t.Cleanup(func() {
		for _, s := range w.servers {
			if t.Failed() {
				t.Logf("PostgreSQL %d said:\n%s", s.Major, s.Log())
			}
		}
	})
	w.pair.From.Admin, w.pair.To.Admin = w.servers[false].Target(), w.servers[true].Target()
	w.pair.From.Admin.Database, w.pair.To.Admin.Database = database, database
	source := w.servers[false]
	source.Exec(t, "", "CREATE ROLE tenant NOLOGIN; CREATE ROLE "+login+" LOGIN PASSWORD '"+password+"' IN ROLE tenant; ALTER ROLE "+login+" SET role TO tenant")
	source.Exec(t, "", "CREATE DATABASE "+database+" OWNER tenant TEMPLATE template0")
	source.Exec(t, database, schema)
	w.proxy = newPooler(t, w.pair.From.Admin)
	w.eventually("the proxy serves", func() bool { return w.proxy.do(t.Context(), "SHOW VERSION") == nil })
	return w
}

const schema = `SET ROLE tenant; CREATE SCHEMA app; CREATE SCHEMA other;
	CREATE TABLE app.events (id bigserial PRIMARY KEY, uid uuid NOT NULL UNIQUE, body text);
	CREATE TABLE app.counters (id int PRIMARY KEY, n bigint NOT NULL);
	CREATE TABLE app.parts (id bigint GENERATED ALWAYS AS IDENTITY, day date NOT NULL, v text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
	CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
	CREATE TABLE app.parts_2 PARTITION OF app.parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
	CREATE TABLE other.big (id int PRIMARY KEY, v text NOT NULL);
	CREATE TABLE other.log (id bigserial PRIMARY KEY, what text);
	CREATE FUNCTION other.note() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO other.log (what) VALUES (TG_OP); RETURN NEW; END $f$;
	CREATE TRIGGER noted AFTER INSERT ON app.parts FOR EACH ROW EXECUTE FUNCTION other.note();
	DO $d$ BEGIN FOR i IN 1..100 LOOP EXECUTE format('CREATE SEQUENCE other.s%s START %s', i, i); END LOOP; END $d$;
	INSERT INTO app.counters SELECT i, 0 FROM generate_series(1, 50) i;
	INSERT INTO other.big SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 50) i;`

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// eventually waits for a condition, and fails with what was waited for.
func (w *world) eventually(what string, holds func() bool) {
	w.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	limit := time.NewTimer(40 * time.Second)
	defer limit.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-limit.C:
			w.Fatalf("not within 40 s: %s\nsource: %s\ntarget: %s", what, w.servers[false].Log(), w.servers[true].Log())
		}
	}
}

// copied brings the pair to where the target follows.
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

// pooler is a pgbouncer, driven through its admin socket.
type pooler struct {
	t       *testing.T
	dir     string
	port    int
	process *process.Process
	log     *buffer

	mu     sync.Mutex
	target postgres.Target
	expiry *time.Timer
}

type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newPooler(t *testing.T, to postgres.Target) *pooler {
	t.Helper()
	dir := testkit.OpenDir(t)
	b := &pooler{t: t, dir: dir, port: lowPort(t), log: &buffer{}}
	b.ini(to, false)
	if err := os.WriteFile(filepath.Join(dir, "users"), []byte(`"app" ""`+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hba"), []byte("host all all 127.0.0.1/32 trust\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	program, err := filepath.EvalSymlinks(testkit.Bin(t, "pgbouncer"))
	if err != nil {
		t.Fatal("pgbouncer is not in bin: run `make tools`")
	}
	user := ""
	if os.Getuid() == 0 {
		user = "postgres"
		who, err := process.Credential(user)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, int(who.Uid), int(who.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	b.process, err = process.Start(process.Spec{Path: program, Args: []string{filepath.Join(dir, "ini")}, Dir: "/", User: user, Log: b.log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = b.process.Stop(0)
		if t.Failed() {
			t.Logf("pgbouncer said:\n%s", b.log)
		}
	})
	return b
}

func (b *pooler) ini(to postgres.Target, held bool) {
	b.mu.Lock()
	b.target = to
	b.mu.Unlock()
	size := ""
	if held {
		size = " pool_size=1"
	}
	text := fmt.Sprintf("[databases]\napp = host=%s port=%d dbname=%s user=%s password='%s'%s\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port=%d\nunix_socket_dir=\nadmin_users=app\n"+
		"log_connections=0\nlog_disconnections=0\nauth_type=hba\nauth_hba_file=%s/hba\nauth_file=%s/users\npool_mode=transaction\ndefault_pool_size=20\nserver_login_retry=1\nignore_startup_parameters=search_path,extra_float_digits\n",
		to.Host, to.Port, database, login, password, size, b.port, b.dir, b.dir)
	next := filepath.Join(b.dir, "next")
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		b.t.Error(err)
	}
	if err := os.Rename(next, filepath.Join(b.dir, "ini")); err != nil {
		b.t.Error(err)
	}
}

// do runs console commands on a session of their own.
func (b *pooler) do(ctx context.Context, commands ...string) error {
	console, err := b.console(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = console.Conn().Close() }()
	for _, c := range commands {
		if _, err := console.Exec(ctx, c).ReadAll(); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
	}
	return nil
}

func (b *pooler) console(ctx context.Context) (*pgconn.PgConn, error) {
	cfg, err := postgres.Target{Host: "127.0.0.1", Port: uint16(b.port), User: "app", Database: "pgbouncer", SSLMode: "disable"}.ConnConfig()
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams = nil
	return pgconn.ConnectConfig(ctx, &cfg.Config)
}

// hold lets one connection work, and waits until none logs in.
func (b *pooler) hold(ctx context.Context, to postgres.Target) (migration.Held, error) {
	b.ini(b.target, true)
	console, err := b.console(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = console.Conn().Close() }()
	if _, err := console.Exec(ctx, "RELOAD").ReadAll(); err != nil {
		return nil, err
	}
	for {
		results, err := console.Exec(ctx, "SHOW POOLS").ReadAll()
		if err != nil {
			return nil, err
		}
		busy := false
		for _, row := range results[0].Rows {
			for i, f := range results[0].FieldDescriptions {
				busy = busy || string(row[0]) == database && f.Name == "sv_login" && string(row[i]) != "0"
			}
		}
		if !busy {
			return &held{b, b.target, to}, nil
		}
	}
}

// held is the pooler during one switch.
type held struct {
	*pooler
	from, to postgres.Target
}

// Pause resumes by itself past budget, as a proxy does.
func (h *held) Pause(ctx context.Context, budget time.Duration) error {
	h.mu.Lock()
	h.expiry = time.AfterFunc(budget, func() { h.Abort(context.Background()) })
	h.mu.Unlock()
	err := h.do(ctx, "PAUSE")
	if err != nil {
		h.Abort(context.WithoutCancel(ctx))
	}
	return err
}

func (h *held) Retarget(ctx context.Context) error {
	h.ini(h.to, false)
	return h.do(ctx, "RELOAD")
}

func (h *held) Resume(ctx context.Context) error {
	h.stopExpiry()
	return h.do(ctx, "RESUME")
}

func (h *held) Abort(ctx context.Context) {
	h.stopExpiry()
	h.ini(h.from, false)
	if err := h.do(ctx, "RELOAD", "RESUME"); err != nil && !strings.Contains(err.Error(), "not paused") {
		h.t.Errorf("aborting: %v", err)
	}
}

func (b *pooler) stopExpiry() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.expiry != nil {
		b.expiry.Stop()
	}
}

// client is how the tenant's program reaches its database.
func (b *pooler) client(ctx context.Context) (*pgx.Conn, error) {
	return testkit.Connect(ctx, postgres.Target{Host: "127.0.0.1", Port: uint16(b.port), User: "app", Database: database, SSLMode: "disable"})
}

// lowPort is free, and never that of an outgoing connection.
func lowPort(t testing.TB) int {
	t.Helper()
	for {
		port := 12000 + mathrand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
}
