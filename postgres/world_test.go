package postgres_test

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
)

func TestMain(m *testing.M) {
	testkit.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction("github.com/berth-dev/berth/process.init.func1.1"))
	})
}

// world is one server seen by one administrator.
type world struct {
	*testing.T
	kit    *testkit.PostgresServer
	admin  postgres.Target
	server *postgres.Server
	facts  postgres.Facts
}

// everywhere runs a story on each major, with a superuser and with an
// administrator as hosted servers have.
func everywhere(t *testing.T, story func(w *world)) {
	t.Parallel()
	for _, major := range testkit.Majors {
		for _, admin := range []string{"superuser", "createrole"} {
			t.Run(fmt.Sprintf("%d %s", major, admin), func(t *testing.T) {
				t.Parallel()
				kit := testkit.Postgres(t, major)
				target := kit.Target()
				if admin == "createrole" {
					target = kit.Admin(t)
				}
				story(newWorld(t, kit, target))
			})
		}
	}
}

func newWorld(t *testing.T, kit *testkit.PostgresServer, admin postgres.Target) *world {
	servers := postgres.NewServers(postgres.Limits{})
	t.Cleanup(servers.Close)
	server := servers.Get(admin)
	facts, err := server.Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &world{T: t, kit: kit, admin: admin, server: server, facts: facts}
}

// database is a wanted database with a fresh name.
func (w *world) database() postgres.Database {
	name := w.kit.NewDatabaseName(w)
	return postgres.Database{Name: name, Owner: name + "_owner", Marker: marker(name)}
}

func marker(claim string) postgres.Marker {
	return postgres.Marker{Cluster: "test", Claim: "apps/" + claim, Kind: postgres.DatabaseClaim}
}

func (w *world) read(want postgres.Database) postgres.DatabaseState {
	w.Helper()
	have, err := w.server.ReadDatabase(w.Context(), want)
	if err != nil {
		w.Fatal(err)
	}
	return have
}

func (w *world) plan(want postgres.Database) []postgres.Statement {
	w.Helper()
	plan, err := postgres.DecideDatabase(want, w.read(want), w.facts)
	if err != nil {
		w.Fatal(err)
	}
	return plan
}

func (w *world) apply(plan []postgres.Statement) {
	w.Helper()
	if err := w.server.Apply(w.Context(), plan); err != nil {
		w.Fatalf("%v\nplan:\n%s", err, show(plan))
	}
}

// ensure makes want so, and checks that nothing is left to do.
func (w *world) ensure(want postgres.Database) {
	w.Helper()
	w.apply(w.plan(want))
	w.settled(want)
}

func (w *world) settled(want postgres.Database) {
	w.Helper()
	if again := w.plan(want); again != nil {
		w.Fatalf("a second look still wants:\n%s", show(again))
	}
}

func (w *world) readLogin(name string) postgres.LoginState {
	w.Helper()
	have, err := w.server.ReadLogin(w.Context(), name)
	if err != nil {
		w.Fatal(err)
	}
	return have
}

// login makes a login of group and returns its access to database.
func (w *world) login(name, group, database, password string) postgres.Target {
	w.Helper()
	want := postgres.Login{Name: name, Owner: group, Session: group, Verifier: verifier(password)}
	w.apply(postgres.DecideLogin(want, w.readLogin(name), w.facts))
	target := w.admin
	target.User, target.Password, target.Database = name, password, database
	return target
}

// as runs SQL in a session of target and returns its error.
func (w *world) as(target postgres.Target, sql string) error {
	w.Helper()
	conn, err := testkit.Connect(w.Context(), target)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.PgConn().Exec(w.Context(), sql).ReadAll()
	return err
}

func (w *world) must(target postgres.Target, sql string) {
	w.Helper()
	if err := w.as(target, sql); err != nil {
		w.Fatalf("%s as %s: %v", sql, target.User, err)
	}
}

func (w *world) denied(target postgres.Target, sql string) {
	w.Helper()
	err := w.as(target, sql)
	if err == nil {
		w.Fatalf("%s as %s: was allowed", sql, target.User)
	}
	if fault := postgres.Explain(err); fault.Reason != postgres.NotPermitted {
		w.Fatalf("%s as %s: %s: %v", sql, target.User, fault.Reason, err)
	}
}

func show(plan []postgres.Statement) string {
	var out strings.Builder
	for i, s := range plan {
		fmt.Fprintf(&out, "%2d [%s] %s\n", i, s.Database, s)
	}
	return out.String()
}

func quoted(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// verifier is what the server would store for password.
func verifier(password string) string {
	salt := []byte("0123456789abcdef")
	const rounds = 4096
	salted, err := pbkdf2.Key(sha256.New, password, salt, rounds, 32)
	if err != nil {
		panic(err)
	}
	key := func(text string) []byte {
		mac := hmac.New(sha256.New, salted)
		mac.Write([]byte(text))
		return mac.Sum(nil)
	}
	stored := sha256.Sum256(key("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", rounds, b64(salt), b64(stored[:]), b64(key("Server Key")))
}
