package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
)

// hold opens a session that lasts until the test ends.
func hold(w *world, target postgres.Target) *pgx.Conn {
	w.Helper()
	conn, err := testkit.Connect(w.Context(), target)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestRotationKeepsTheLiveSession(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		w.ensure(want)
		a := w.login(want.Name+"_a", want.Owner, want.Name, "one")
		session := hold(w, a)
		if _, err := session.Exec(w.Context(), "CREATE TABLE of_a (id int)"); err != nil {
			w.Fatal(err)
		}
		b := w.login(want.Name+"_b", want.Owner, want.Name, "two")
		w.must(b, "INSERT INTO of_a VALUES (1); ALTER TABLE of_a ADD COLUMN more int")
		w.login(a.User, want.Owner, want.Name, "three")
		if _, err := session.Exec(w.Context(), "SELECT more FROM of_a"); err != nil {
			w.Fatalf("the live session: %v", err)
		}
		if err := w.server.TestLogin(w.Context(), want.Name, a.User, "one", want.Owner); postgres.Explain(err).Reason != postgres.LoginRefused {
			w.Fatalf("the old password: %v", err)
		}
		if err := w.server.TestLogin(w.Context(), want.Name, a.User, "three", want.Owner); err != nil {
			w.Fatalf("the new password: %v", err)
		}
		w.apply(postgres.DisableLogin(a.User))
		if err := w.server.TestLogin(w.Context(), want.Name, a.User, "three", want.Owner); postgres.Explain(err).Reason != postgres.LoginRefused {
			w.Fatalf("a disabled login: %v", err)
		}
		if _, err := session.Exec(w.Context(), "SELECT 1"); err != nil {
			w.Fatalf("the live session of a disabled login: %v", err)
		}
		if n, err := w.server.EndSessions(w.Context(), a.User, b.User, "nobody_at_all"); err != nil || n < 1 { // a test login may still be saying goodbye
			w.Fatalf("ended = %d, %v", n, err)
		}
		if n, err := w.server.Sessions(w.Context(), a.User); err != nil || n != 0 {
			w.Fatalf("sessions = %d, %v", n, err)
		}
		w.apply(postgres.DecideRelease(postgres.Release{
			Database: want, Marker: want.Marker, Logins: []postgres.LoginState{w.readLogin(a.User), w.readLogin("nobody_at_all")},
		}, postgres.DatabaseState{}, w.facts))
		if w.readLogin(a.User).Exists {
			w.Fatal("the login is still there")
		}
	})
}

func TestALoginIsBroughtToWhatIsWanted(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		w.ensure(want)
		login := postgres.Login{Name: want.Name + "_a", Owner: want.Owner, Session: want.Owner}
		w.apply(postgres.DecideLogin(login, w.readLogin(login.Name), w.facts))
		nothing := func() {
			w.Helper()
			if again := postgres.DecideLogin(login, w.readLogin(login.Name), w.facts); again != nil {
				w.Fatalf("a second look still wants:\n%s", show(again))
			}
		}
		nothing()
		w.kit.Exec(w, "", "ALTER ROLE "+login.Name+" NOLOGIN; ALTER ROLE "+login.Name+" RESET role; REVOKE "+want.Owner+" FROM "+login.Name+" CASCADE; REVOKE "+want.Owner+" FROM "+login.Name+" GRANTED BY "+w.admin.User)
		w.apply(postgres.DecideLogin(login, w.readLogin(login.Name), w.facts))
		nothing()
		if !w.facts.Superuser {
			return
		}
		login.Superuser, login.Replication, login.Session = true, true, ""
		w.apply(postgres.DecideLogin(login, w.readLogin(login.Name), w.facts))
		nothing()
		have := w.readLogin(login.Name)
		if !have.Superuser || !have.Replication || have.Session != "" {
			w.Fatalf("have %+v", have)
		}
		login.Superuser, login.Replication = false, false
		w.apply(postgres.DecideLogin(login, w.readLogin(login.Name), w.facts))
		nothing()
	})
}

func TestAHostedServerGrantsGroupsInsteadOfAttributes(t *testing.T) {
	t.Parallel()
	facts := postgres.Facts{Version: 160000, SuperuserGroup: "rds_superuser", ReplicationGroup: "rds_replication"}
	login := postgres.Login{Name: "app_a", Owner: "app", Superuser: true, Replication: true}
	plan := postgres.DecideLogin(login, postgres.LoginState{}, facts)
	if got, want := show(plan), " 0 [] CREATE ROLE \"app_a\" LOGIN IN ROLE \"app\"\n 1 [] GRANT \"rds_superuser\" TO \"app_a\"\n 2 [] GRANT \"rds_replication\" TO \"app_a\"\n"; got != want {
		t.Fatalf("plan:\n%s", got)
	}
	have := postgres.LoginState{Exists: true, CanLogin: true, MemberOf: []string{"app", "rds_superuser", "rds_replication"}}
	if plan := postgres.DecideLogin(login, have, facts); plan != nil {
		t.Fatalf("plan:\n%s", show(plan))
	}
	login.Superuser, login.Replication = false, false
	if got := show(postgres.DecideLogin(login, have, facts)); got != " 0 [] REVOKE \"rds_superuser\" FROM \"app_a\"\n 1 [] REVOKE \"rds_replication\" FROM \"app_a\"\n" {
		t.Fatalf("plan:\n%s", got)
	}
}

func TestALoginWithoutItsSessionRoleIsNoticed(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		w.ensure(want)
		app := w.login(want.Name+"_a", want.Owner, want.Name, "one")
		w.kit.Exec(w, "", "ALTER ROLE "+app.User+" RESET role")
		refused(w, w.server.TestLogin(w.Context(), want.Name, app.User, "one", want.Owner), postgres.SessionRoleMissing)
	})
}
