package replication_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres/replication"
)

// fit is a survey in which nothing is wrong.
func fit() replication.Survey {
	server := replication.Server{Version: 150018, Superuser: true, WALLevel: "logical", SlotsFree: 10, SendersFree: 10, LogicalWorkers: 4, Processes: 8, KeepSize: 1000}
	s := replication.Survey{From: server, To: server, Database: replication.Contents{Name: "app", Limit: -1, Provider: "c", Collate: "C"}}
	s.To.Version = 170009
	return s
}

func TestDecidePreflight(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*replication.Survey)
		accept replication.Options
		want   []string // severity and code
	}{
		"nothing is found where nothing is wrong":         {change: func(*replication.Survey) {}},
		"a source that is too old is refused":             {change: func(s *replication.Survey) { s.From.Version = 140010 }, want: []string{"Refuses OldServer"}},
		"a target older than the source is refused":       {change: func(s *replication.Survey) { s.From.Version = 180001 }, want: []string{"Refuses OlderTarget"}},
		"an administrator without superuser is refused":   {change: func(s *replication.Survey) { s.To.Superuser = false }, want: []string{"Refuses NoSuperuser"}},
		"wal_level replica is refused":                    {change: func(s *replication.Survey) { s.From.WALLevel = "replica" }, want: []string{"Refuses WALLevel"}},
		"too few slots are refused":                       {change: func(s *replication.Survey) { s.From.SlotsFree = 1 }, want: []string{"Refuses NoSlots"}},
		"too few workers are refused":                     {change: func(s *replication.Survey) { s.To.LogicalWorkers = 2 }, want: []string{"Refuses NoWorkers"}},
		"WAL without a bound is warned of":                {change: func(s *replication.Survey) { s.From.KeepSize = -1 }, want: []string{"Warns UnboundWAL"}},
		"a link that cannot be verified is refused":       {change: func(s *replication.Survey) { s.From.Verified = true }, want: []string{"Refuses LinkUnverified"}},
		"a database that is there already is refused":     {change: func(s *replication.Survey) { s.Taken = true }, want: []string{"Refuses TargetTaken"}},
		"a locale the target lacks is refused":            {change: func(s *replication.Survey) { s.Database.Collate = "xx_YY" }, want: []string{"Refuses LocaleMissing"}},
		"a locale that is only written otherwise is fine": {change: func(s *replication.Survey) { s.Database.Collate, s.Collations = "C.UTF-8", []string{"C.utf8"} }},
		"a table without a key is refused": {
			change: func(s *replication.Survey) {
				s.Database.NoIdentity = []replication.Identity{{Table: "app.t"}}
			}, want: []string{"Refuses NoIdentity"},
		},
		"a table without a key is accepted on demand": {
			change: func(s *replication.Survey) {
				s.Database.NoIdentity = []replication.Identity{{Table: "app.t"}}
			}, accept: replication.Options{FullIdentity: true}, want: []string{"Warns IdentityByRow"},
		},
		"large objects are refused":           {change: func(s *replication.Survey) { s.Database.LargeObjects = 3 }, want: []string{"Refuses LargeObjects"}},
		"large objects stay behind on demand": {change: func(s *replication.Survey) { s.Database.LargeObjects = 3 }, accept: replication.Options{LostObjects: true}, want: []string{"Warns LargeObjects"}},
		"a role of somebody else is refused": {change: func(s *replication.Survey) {
			s.Database.Roles, s.ToRoles = []replication.Role{{Name: "r", Comment: "ours"}}, []replication.Role{{Name: "r", Comment: "theirs"}}
		}, want: []string{"Refuses RoleTaken"}},
		"the same role on both sides is fine": {change: func(s *replication.Survey) {
			s.Database.Roles, s.ToRoles = []replication.Role{{Name: "r", Comment: "ours"}}, []replication.Role{{Name: "r", Comment: "ours"}}
		}},
		"a long transaction is warned of, after what is refused": {
			change: func(s *replication.Survey) {
				s.Database.Oldest, s.Database.Limit = time.Hour, 0
			}, want: []string{"Refuses ClosedDatabase", "Warns LongTransaction"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := fit()
			tc.change(&s)
			var got []string
			for _, f := range replication.DecidePreflight(s, tc.accept) {
				got = append(got, f.Severity+" "+f.Code)
				if f.Message == "" || f.Object == "" {
					t.Errorf("%s names no object, or says nothing: %+v", f.Code, f)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("found %v, want %v", got, tc.want)
			}
		})
	}
}

// Each hazard is made on a real server, and has to be seen by its name.
func TestPreflightSeesWhatIsThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, 17)
	w.from.Exec(t, "", "ALTER SYSTEM SET max_prepared_transactions = 5")
	w.from.Restart(t)
	w.from.Exec(t, w.database, `
		SET ROLE tenant; CREATE TABLE app.bare (a int); CREATE UNLOGGED TABLE app.fleeting (id int PRIMARY KEY); RESET ROLE;
		CREATE EXTENSION postgres_fdw; CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
		ALTER TABLE app.counters ENABLE ALWAYS TRIGGER noted;
		CREATE PUBLICATION theirs FOR TABLE app.events;
		CREATE FUNCTION app.ev() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN END $f$; CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION app.ev();
		SELECT lo_from_bytea(0, 'x')`)
	w.from.Exec(t, w.database, "BEGIN; INSERT INTO app.events (uid) VALUES (gen_random_uuid()); PREPARE TRANSACTION 'forgotten'")
	altering, err := testkit.Connect(t.Context(), w.pair.From.Admin)
	w.must(err)
	defer func() { _ = altering.Close(context.Background()) }()
	_, err = altering.PgConn().Exec(t.Context(), "BEGIN; ALTER TABLE app.toasted ADD COLUMN extra int").ReadAll()
	w.must(err)
	w.to.Exec(t, "", `CREATE ROLE reader LOGIN PASSWORD 'another'`)
	w.to.Exec(t, "", `CREATE DATABASE "app db"`)
	survey, err := w.pair.ReadSurvey(t.Context())
	w.must(err)
	var got []string
	for _, f := range replication.DecidePreflight(survey, replication.Options{}) {
		got = append(got, fmt.Sprintf("%s %s %s", f.Severity, f.Code, f.Object))
	}
	for _, want := range []string{
		"Refuses NoIdentity app.bare", "Warns IdentityByIndex app.nokey", "Refuses Unlogged app.fleeting", "Refuses ForeignServer elsewhere",
		"Refuses AlwaysTrigger noted on app.counters", "Warns Publication theirs", "Warns EventTrigger watcher", "Refuses LargeObjects 1 large objects",
		"Refuses PreparedTransaction forgotten", "Refuses DDLInFlight app.toasted", "Refuses RoleTaken reader", "Refuses TargetTaken app db",
		"Warns MaterializedView app.totals", "Warns UnboundWAL source",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("not found: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("found: %q", got)
	}
}

func TestPreflightRefusesAnAdministratorThatIsNoSuperuser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, 17)
	admin := w.from.Admin(t)
	w.from.Exec(t, "", "GRANT CONNECT ON DATABASE \"app db\" TO "+admin.User)
	admin.Database = w.database
	w.pair.From.Admin = admin
	survey, err := w.pair.ReadSurvey(t.Context())
	w.must(err)
	refused := replication.Refused(replication.DecidePreflight(survey, replication.Options{}))
	if !slices.ContainsFunc(refused, func(f replication.Finding) bool { return f.Code == "NoSuperuser" }) {
		t.Errorf("refused: %v", refused)
	}
}

func TestAChangeOfTheSchemaStopsTheMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, 18)
	w.copied()
	w.must(w.pair.CheckUnchanged(t.Context()))
	for name, sql := range map[string]string{
		"a new column":            "ALTER TABLE app.events ADD COLUMN more int",
		"a new table":             "CREATE TABLE app.more (id int PRIMARY KEY)",
		"another function body":   "CREATE OR REPLACE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN NEW; END $f$",
		"a new label of an enum":  "ALTER TYPE app.mood ADD VALUE 'glad'",
		"another grant":           "GRANT DELETE ON app.events TO reader",
		"another default":         "ALTER TABLE app.counters ALTER n SET DEFAULT 5",
		"a policy":                "CREATE POLICY p ON app.events USING (true)",
		"another view":            "CREATE OR REPLACE VIEW app.happy AS SELECT e.id, e.by FROM app.events e",
		"a sequence's increment":  "ALTER SEQUENCE app.uncalled INCREMENT 2",
		"another comment":         "COMMENT ON TABLE app.events IS 'else'",
		"default privileges":      "ALTER DEFAULT PRIVILEGES FOR ROLE tenant IN SCHEMA app GRANT INSERT ON TABLES TO reader",
		"a trigger switched off":  "ALTER TABLE app.counters DISABLE TRIGGER noted",
		"another owner":           "ALTER TABLE app.children OWNER TO reader",
		"a dropped index":         "DROP INDEX app.events_trgm",
		"a constraint's validity": "ALTER TABLE app.children ADD CONSTRAINT c CHECK (id > 0) NOT VALID",
	} {
		before := w.fingerprint()
		w.from.Exec(t, w.database, sql)
		if w.fingerprint() == before {
			t.Errorf("%s goes unseen", name)
		}
	}
	if err := w.pair.CheckUnchanged(t.Context()); !errors.Is(err, replication.ErrChanged) {
		t.Errorf("the change is told as %v", err)
	}
	differences, err := w.pair.Differences(t.Context())
	w.must(err)
	if len(differences) < 10 {
		t.Errorf("few differences are named: %v", differences)
	}
}

func TestDecideRetention(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		kept  replication.Retention
		limit int64
		ends  bool
	}{
		"goes on below the limit":              {replication.Retention{Bytes: 10 << 20, Status: "reserved"}, 20 << 20, false},
		"ends above the limit":                 {replication.Retention{Bytes: 30 << 20, Status: "extended"}, 20 << 20, true},
		"goes on without a limit":              {replication.Retention{Bytes: 1 << 40, Status: "extended"}, 0, false},
		"ends when the server gave the WAL up": {replication.Retention{Status: "lost"}, 0, true},
		"ends when the server is about to":     {replication.Retention{Status: "unreserved"}, 0, true},
	} {
		if why := replication.DecideRetention(tc.kept, tc.limit); (why != "") != tc.ends {
			t.Errorf("%s: %q", name, why)
		}
	}
}

func TestRetentionIsSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, 17)
	w.copied()
	w.to.Exec(t, w.database, "ALTER SUBSCRIPTION berth_m_test_1 DISABLE")
	w.from.Exec(t, w.database, "INSERT INTO app.toasted SELECT i, repeat(md5(i::text), 5000) FROM generate_series(1000, 1100) i")
	kept, err := w.pair.From.ReadRetention(t.Context(), w.pair.Name)
	w.must(err)
	if kept.Slot != "berth_m_test_1" || kept.Bytes < 50_000 {
		t.Errorf("kept: %+v", kept)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("I\x00\x00\x00\x01N\x00\x01t\x00\x00\x00\x01x"))
	f.Add([]byte("R\x00\x00\x00\x01app\x00t\x00d\x00\x01\x01id\x00\x00\x00\x00\x17\xff\xff\xff\xff"))
	f.Add([]byte("T\xff\xff\xff\xff\x00"))
	f.Add([]byte("U\x00\x00\x00\x01K\xff\xff"))
	f.Fuzz(func(_ *testing.T, message []byte) { _ = replication.Parse(message) })
}
