package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/postgres"
)

func TestDatabaseIsMadeAndUsed(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		w.ensure(want)
		app := w.login(want.Name+"_a", want.Owner, want.Name, "one")
		w.must(app, "CREATE TABLE orders (id serial PRIMARY KEY); CREATE SCHEMA more; CREATE TABLE more.things (id int)")
		got := w.kit.Query(w, want.Name, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('public', 'more')")
		if diff := cmp.Diff([]string{want.Owner}, got); diff != "" {
			w.Fatal(diff)
		}
		if err := w.server.TestLogin(w.Context(), want.Name, app.User, "one", want.Owner); err != nil {
			w.Fatal(err)
		}
		stranger := w.login(want.Name+"_stranger", "", want.Name, "two")
		w.denied(stranger, "SELECT 1")
	})
}

func TestSchemasAndExtensionsAreMade(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		want.Schemas, want.Extensions = []string{"sales", "public"}, []string{"citext", "pgcrypto"}
		w.ensure(want)
		w.must(w.login(want.Name+"_a", want.Owner, want.Name, "one"), "CREATE TABLE sales.people (name public.citext)")
		want.Schemas, want.Extensions = append(want.Schemas, "Later One"), append(want.Extensions, "hstore")
		w.ensure(want)
		got := w.kit.Query(w, want.Name, "SELECT extname, extnamespace::regnamespace FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1")
		if diff := cmp.Diff([]string{"citext|public", "hstore|public", "pgcrypto|public"}, got); diff != "" {
			w.Fatal(diff)
		}
		want.Extensions = []string{"no_such_thing"}
		_, err := postgres.DecideDatabase(want, w.read(want), w.facts)
		refused(w, err, postgres.ExtensionUnavailable)
	})
}

func refused(t testing.TB, err error, reason string) {
	t.Helper()
	var fault *postgres.Fault
	if !errors.As(err, &fault) || fault.Reason != reason || !fault.Permanent {
		t.Fatalf("want a permanent %s, have %v", reason, err)
	}
}

func TestDriftIsRepairedByTheDifference(t *testing.T) {
	drifts := map[string]struct {
		sql   string // DB, OWNER and OTHER stand for names
		inner bool
		plan  int
	}{
		"connect given to everybody":   {sql: "GRANT CONNECT ON DATABASE DB TO PUBLIC", plan: 1},
		"comment of the database gone": {sql: "COMMENT ON DATABASE DB IS NULL", plan: 1},
		"comment of the database lost": {sql: "COMMENT ON DATABASE DB IS 'mine'", plan: 1},
		"comment of the owner gone":    {sql: "COMMENT ON ROLE OWNER IS NULL", plan: 1},
		"connect taken from the owner": {sql: "REVOKE CONNECT ON DATABASE DB FROM OWNER", plan: 4},
		"a schema dropped":             {sql: "DROP SCHEMA kept", inner: true, plan: 1},
		"a schema of somebody else":    {sql: "DROP SCHEMA kept; CREATE SCHEMA kept AUTHORIZATION OTHER", inner: true, plan: 1},
		"an extension dropped":         {sql: "DROP EXTENSION citext", inner: true, plan: 2},
		"another owner":                {sql: "ALTER DATABASE DB owner TO OTHER", plan: 8},
	}
	everywhere(t, func(w *world) {
		for name, drift := range drifts {
			w.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, w.kit, w.admin)
				want := w.database()
				want.Schemas, want.Extensions = []string{"kept"}, []string{"citext"}
				w.ensure(want)
				at := ""
				if drift.inner {
					at = want.Name
				}
				w.kit.Exec(t, at, strings.NewReplacer("DB", quoted(want.Name), "OWNER", quoted(want.Owner), "OTHER", quoted(w.admin.User)).Replace(drift.sql))
				plan := w.plan(want)
				if len(plan) == 0 || len(plan) > drift.plan {
					t.Fatalf("want at most %d statements, have:\n%s", drift.plan, show(plan))
				}
				w.apply(plan)
				w.settled(want)
			})
		}
	})
}

func TestHostileNamesAreOnlyNames(t *testing.T) {
	hostile := []string{
		`"; DROP ROLE postgres; --`, `'; SELECT pg_sleep(9); --`, `a"b"c`, `back\slash'`, `ünï ☃ 雪`, `%s$1`, `-- x`, "tab\tnew\nline", `select`, `CamelCase`,
	}
	everywhere(t, func(w *world) {
		for _, text := range hostile {
			base := w.kit.NewDatabaseName(w)
			want := postgres.Database{Name: base + text, Owner: base + "o" + text, Marker: marker(text), Schemas: []string{text}}
			w.ensure(want)
			app := w.login(base+"l"+text, want.Owner, want.Name, "pass'word\\")
			w.must(app, "CREATE TABLE "+quoted(text, "t")+" (id int)")
			member := postgres.Member{Database: want.Name, DatabaseOwner: want.Owner, Role: base + "m" + text, Marker: roleMarker(text), Access: map[string]string{text: postgres.ReadOnly, "x" + text: postgres.Regular}}
			w.ensureMember(member)
			if n, err := w.server.EndSessions(w.Context(), app.User); err != nil {
				w.Fatal(n, err)
			}
			have := w.read(want)
			w.apply(postgres.DecideDropMember(member, w.readMember(member), nil, w.facts))
			w.apply(postgres.DecideDrop(want, have, []postgres.LoginState{w.readLogin(app.User)}, w.facts))
			if left := w.kit.Query(w, "", "SELECT datname FROM pg_database WHERE starts_with(datname, "+literal(base)+") UNION ALL SELECT rolname FROM pg_roles WHERE starts_with(rolname, "+literal(base)+")"); left != nil {
				w.Fatalf("left behind: %q", left)
			}
		}
	})
}

func TestRefusals(t *testing.T) {
	everywhere(t, func(w *world) {
		mine := w.database()
		w.ensure(mine)
		other := mine
		other.Marker = marker("somebody-else")
		_, err := postgres.DecideDatabase(other, w.read(other), w.facts)
		refused(w, err, postgres.DatabaseNotOurs)

		stranger := w.database()
		w.kit.Exec(w, "", "CREATE DATABASE "+stranger.Name)
		_, err = postgres.DecideDatabase(stranger, w.read(stranger), w.facts)
		refused(w, err, postgres.DatabaseNotOurs)

		for _, attributes := range []string{"LOGIN", "SUPERUSER", "NOLOGIN"} {
			taken := w.database()
			taken.Adopt = true
			w.kit.Exec(w, "", "CREATE ROLE "+taken.Owner+" "+attributes)
			_, err = postgres.DecideDatabase(taken, w.read(taken), w.facts)
			refused(w, err, postgres.RoleNotOurs)
		}

		for _, name := range []string{"", "postgres", "template1", "pg_mine", strings.Repeat("x", 64), strings.Repeat("ü", 32), "nul\x00", "\xff"} {
			want := w.database()
			want.Name = name
			_, err := postgres.DecideDatabase(want, postgres.DatabaseState{}, w.facts)
			refused(w, err, postgres.ReservedName)
		}
		absent := w.database()
		absent.External = true
		_, err = postgres.DecideDatabase(absent, w.read(absent), w.facts)
		refused(w, err, postgres.DatabaseMissing)
	})
}

func TestTwoClaimsThatRaceForOneDatabaseDoNotShareIt(t *testing.T) {
	everywhere(t, func(w *world) {
		mine := w.database()
		theirs := mine
		theirs.Marker = marker("rival")
		late := w.plan(theirs)
		w.ensure(mine)
		if err := w.server.Apply(w.Context(), late); err == nil {
			w.Fatal("the plan of a rival was carried out")
		}
		theirs.Owner += "_rival"
		theirs.Name = mine.Name
		plan, err := postgres.DecideDatabase(theirs, postgres.DatabaseState{Role: postgres.RoleState{Name: theirs.Owner}}, w.facts)
		if err != nil {
			w.Fatal(err)
		}
		if err := w.server.Apply(w.Context(), plan); postgres.Explain(err).Reason != postgres.AlreadyExists {
			w.Fatalf("a rival with its own owner: %v", err)
		}
		w.settled(mine)
	})
}
