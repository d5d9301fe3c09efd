package postgres_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/postgres"
)

// interruptAll runs each prefix of plan, as if berth died after it, and then
// the whole. A group role and its marker are made in one transaction, so no
// crash can come between them.
func (w *world) interruptAll(plan []postgres.Statement) {
	w.Helper()
	for n := range plan {
		if n > 0 && strings.HasPrefix(plan[n-1].Note, "create role ") {
			continue
		}
		if err := w.server.Apply(w.Context(), plan[:n]); err != nil {
			w.Fatalf("first %d statements: %v\nplan:\n%s", n, err, show(plan))
		}
		if err := w.server.Apply(w.Context(), plan[max(n-1, 0):n]); err != nil {
			w.Fatalf("%q again: %v", plan[n-1].Note, err)
		}
	}
	w.apply(plan)
}

func TestPlansSurviveACrashAfterEachStatement(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		want.Schemas, want.Extensions = []string{"app"}, []string{"citext"}
		w.interruptAll(w.plan(want))
		w.settled(want)

		login := postgres.Login{Name: want.Name + "_a", Owner: want.Owner, Session: want.Owner, Verifier: verifier("one")}
		w.interruptAll(postgres.DecideLogin(login, w.readLogin(login.Name), w.facts))
		target := w.login(login.Name, want.Owner, want.Name, "one")
		w.must(target, "CREATE TABLE app.t (id int); SET ROLE NONE; CREATE TABLE app.by_login (id int)")

		member := postgres.Member{Database: want.Name, DatabaseOwner: want.Owner, Role: want.Name + "_m", Marker: roleMarker(want.Name), Access: map[string]string{"app": "regular", "new": "admin"}}
		w.interruptAll(w.planMember(member))
		w.ensureMember(member)

		now := time.Now()
		gone := want.Marker
		gone.Released, gone.DropAfter = &now, &now
		w.interruptAll(postgres.DecideRelease(postgres.Release{Database: want, Marker: gone, Logins: []postgres.LoginState{w.readLogin(login.Name)}}, w.read(want), w.facts))

		w.apply(postgres.DecideDropMember(member, w.readMember(member), nil, w.facts))
		w.interruptAll(postgres.DecideDrop(want, w.read(want), nil, w.facts))
		w.nothingLeft(want)
		if again := postgres.DecideDrop(want, w.read(want), nil, w.facts); again != nil {
			w.Fatalf("a second drop still wants:\n%s", show(again))
		}
	})
}

func (w *world) nothingLeft(want postgres.Database) {
	w.Helper()
	left := w.kit.Query(w, "", "SELECT datname FROM pg_database WHERE starts_with(datname, "+literal(want.Name)+") UNION ALL SELECT rolname FROM pg_roles WHERE starts_with(rolname, "+literal(want.Name)+")")
	if left != nil {
		w.Fatalf("left behind: %q", left)
	}
}

func TestADropEndsSessionsAndFinishes(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		w.ensure(want)
		app := w.login(want.Name+"_a", want.Owner, want.Name, "one")
		hold(w, app)
		hold(w, app)
		if n, err := w.server.Sessions(w.Context(), app.User); err != nil || n != 2 {
			w.Fatalf("sessions = %d, %v", n, err)
		}
		w.apply(postgres.DecideDrop(want, w.read(want), []postgres.LoginState{w.readLogin(app.User)}, w.facts))
		w.nothingLeft(want)
	})
}

func TestADropWithoutItsLoginsFinishesToo(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		w.ensure(want)
		hold(w, w.login(want.Name+"_a", want.Owner, want.Name, "one"))
		w.apply(postgres.DecideDrop(want, w.read(want), nil, w.facts))
		if got := w.kit.Query(w, "", "SELECT rolname FROM pg_roles WHERE starts_with(rolname, "+literal(want.Name)+")"); !cmp.Equal(got, []string{want.Name + "_a"}) {
			w.Fatalf("roles left: %q", got)
		}
	})
}

func TestADropTouchesOnlyWhatIsOurs(t *testing.T) {
	everywhere(t, func(w *world) {
		mine := w.database()
		w.ensure(mine)
		theirs := mine
		theirs.Marker = marker("rival")
		if plan := postgres.DecideDrop(theirs, w.read(theirs), nil, w.facts); plan != nil {
			w.Fatalf("would drop another's database:\n%s", show(plan))
		}
		if plan := postgres.DecideRelease(postgres.Release{Database: theirs, Marker: theirs.Marker}, w.read(theirs), w.facts); plan != nil {
			w.Fatalf("would release another's database:\n%s", show(plan))
		}
	})
}

func TestAReleasedDatabaseComesBackWithItsData(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		w.ensure(want)
		app := w.login(want.Name+"_a", want.Owner, want.Name, "one")
		w.must(app, "CREATE TABLE kept (id int); INSERT INTO kept VALUES (42)")
		session := hold(w, app)
		at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		after := at.Add(72 * time.Hour)
		gone := want.Marker
		gone.Released, gone.DropAfter = &at, &after
		release := postgres.Release{Database: want, Marker: gone, Logins: []postgres.LoginState{w.readLogin(app.User)}}
		w.apply(postgres.DecideRelease(release, w.read(want), w.facts))
		release.Logins = nil
		if again := postgres.DecideRelease(release, w.read(want), w.facts); again != nil {
			w.Fatalf("a second release still wants:\n%s", show(again))
		}
		if err := session.Ping(w.Context()); err == nil {
			w.Fatal("the session lives on")
		}
		if reason := postgres.Explain(w.as(app, "SELECT 1")).Reason; reason != postgres.LoginRefused {
			w.Fatalf("logging in after the release: %s", reason)
		}
		marked, err := w.server.Marked(w.Context())
		if err != nil {
			w.Fatal(err)
		}
		var mine []postgres.Marked
		for _, m := range marked {
			if m.Marker.Claim == want.Marker.Claim {
				mine = append(mine, m)
			}
		}
		if diff := cmp.Diff([]postgres.Marked{{Kind: "database", Name: want.Name, Owner: want.Owner, Marker: gone}, {Kind: "role", Name: want.Owner, Marker: gone}}, mine); diff != "" {
			w.Fatal(diff)
		}
		w.ensure(want)
		app = w.login(app.User, want.Owner, want.Name, "two")
		w.must(app, "INSERT INTO kept SELECT id FROM kept")
	})
}
