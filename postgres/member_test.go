package postgres_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/postgres"
)

func roleMarker(claim string) postgres.Marker {
	return postgres.Marker{Cluster: "test", Claim: "apps/" + claim, Kind: postgres.RoleClaim}
}

func (w *world) readMember(want postgres.Member) postgres.MemberState {
	w.Helper()
	have, err := w.server.ReadMember(w.Context(), want)
	if err != nil {
		w.Fatal(err)
	}
	return have
}

func (w *world) planMember(want postgres.Member) []postgres.Statement {
	w.Helper()
	plan, err := postgres.DecideMember(want, w.readMember(want), w.facts)
	if err != nil {
		w.Fatal(err)
	}
	return plan
}

func (w *world) ensureMember(want postgres.Member) {
	w.Helper()
	w.apply(w.planMember(want))
	if again := w.planMember(want); again != nil {
		w.Fatalf("a second look still wants:\n%s", show(again))
	}
}

func TestMembersMayDoWhatTheirAccessSays(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		want.Schemas = []string{"app"}
		w.ensure(want)
		owner := w.login(want.Name+"_a", want.Owner, want.Name, "one")
		w.must(owner, "CREATE TABLE app.before (id serial PRIMARY KEY); INSERT INTO app.before DEFAULT VALUES; CREATE VIEW app.seen AS SELECT * FROM app.before; CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")

		member := func(level string) (postgres.Member, postgres.Target) {
			m := postgres.Member{Database: want.Name, DatabaseOwner: want.Owner, Role: want.Name + "_" + level, Marker: roleMarker(want.Name + level), Access: map[string]string{"app": level}}
			w.ensureMember(m)
			return m, w.login(m.Role+"_a", m.Role, want.Name, "two")
		}
		_, reader := member(postgres.ReadOnly)
		regular, writer := member(postgres.Regular)
		_, admin := member(postgres.Admin)
		w.must(owner, "CREATE TABLE app.after (id serial PRIMARY KEY); INSERT INTO app.after DEFAULT VALUES")

		for _, table := range []string{"before", "after"} {
			w.must(reader, "SELECT * FROM app."+table)
			w.denied(reader, "INSERT INTO app."+table+" DEFAULT VALUES")
			w.denied(reader, "DELETE FROM app."+table)
			w.denied(reader, "TRUNCATE app."+table)
			w.must(writer, "INSERT INTO app."+table+" DEFAULT VALUES; UPDATE app."+table+" SET id = id + 100; DELETE FROM app."+table+" WHERE id < 0")
			w.denied(writer, "TRUNCATE app."+table)
			w.must(admin, "TRUNCATE app."+table+"; INSERT INTO app."+table+" DEFAULT VALUES")
		}
		w.must(reader, "SELECT * FROM app.seen")
		for _, sql := range []string{"CREATE TABLE app.mine (id int)", "CREATE TABLE public.mine (id int)", "CREATE SCHEMA mine", "CREATE TEMP TABLE mine (id int)"} {
			w.denied(reader, sql)
		}
		w.must(writer, "CREATE TABLE app.of_writer (id int)")
		w.must(owner, "INSERT INTO app.of_writer VALUES (1); TRUNCATE app.of_writer")

		regular.Access["app"] = postgres.ReadOnly
		w.ensureMember(regular)
		for _, sql := range []string{"INSERT INTO app.before DEFAULT VALUES", "INSERT INTO app.of_writer VALUES (1)", "CREATE TABLE app.again (id int)"} {
			w.denied(writer, sql)
		}
		w.must(writer, "SELECT * FROM app.before; SELECT * FROM app.of_writer")
		w.must(owner, "CREATE TABLE app.even_later (id int)")
		w.denied(writer, "INSERT INTO app.even_later VALUES (1)")
		w.must(owner, "DROP TABLE app.of_writer")

		delete(regular.Access, "app")
		regular.Access["other"] = postgres.Regular
		w.ensureMember(regular)
		w.denied(writer, "SELECT * FROM app.before")
		w.must(writer, "CREATE TABLE other.mine (id serial)")
		w.must(owner, "CREATE TABLE other.theirs (id int)")
	})
}

func TestAMemberSeesWhatAnotherMemberMakes(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		want.Schemas = []string{"app"}
		w.ensure(want)
		make := postgres.Member{Database: want.Name, DatabaseOwner: want.Owner, Role: want.Name + "_w", Marker: roleMarker(want.Name + "w"), Access: map[string]string{"app": postgres.Regular}}
		look := postgres.Member{Database: want.Name, DatabaseOwner: want.Owner, Role: want.Name + "_r", Marker: roleMarker(want.Name + "r"), Access: map[string]string{"app": postgres.ReadOnly}}
		w.ensureMember(make)
		w.ensureMember(look)
		w.must(w.login(make.Role+"_a", make.Role, want.Name, "one"), "CREATE TABLE app.t (id int)")
		reader := w.login(look.Role+"_a", look.Role, want.Name, "two")
		w.must(reader, "SELECT * FROM app.t")
		w.denied(reader, "INSERT INTO app.t VALUES (1)")
	})
}

func TestADroppedMemberLeavesItsWorkToTheOwner(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		want.Schemas = []string{"app"}
		w.ensure(want)
		member := postgres.Member{Database: want.Name, DatabaseOwner: want.Owner, Role: want.Name + "_m", Marker: roleMarker(want.Name), Access: map[string]string{"app": postgres.Admin}}
		w.ensureMember(member)
		login := w.login(member.Role+"_a", member.Role, want.Name, "one")
		w.must(login, "CREATE TABLE app.made (id serial); INSERT INTO app.made DEFAULT VALUES")
		w.must(login, "SET ROLE NONE; CREATE TABLE app.by_login (id int)")
		plan := postgres.DecideDropMember(member, w.readMember(member), []postgres.LoginState{w.readLogin(login.User)}, w.facts)
		w.interruptAll(plan)
		got := w.kit.Query(w, want.Name, "SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'app' ORDER BY 1")
		if diff := cmp.Diff([]string{"by_login|" + want.Owner, "made|" + want.Owner}, got); diff != "" {
			w.Fatal(diff)
		}
		if left := w.kit.Query(w, "", "SELECT rolname FROM pg_roles WHERE starts_with(rolname, "+literal(member.Role)+")"); left != nil {
			w.Fatalf("left behind: %q", left)
		}
		w.settled(want)
	})
}

func TestAMemberRoleOfSomebodyElseIsRefused(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		w.ensure(want)
		member := postgres.Member{Database: want.Name, DatabaseOwner: want.Owner, Role: want.Name + "_m", Marker: roleMarker(want.Name), Access: map[string]string{"public": postgres.ReadOnly}}
		w.ensureMember(member)
		member.Marker = roleMarker("rival")
		_, err := postgres.DecideMember(member, w.readMember(member), w.facts)
		refused(w, err, postgres.RoleNotOurs)
		if plan := postgres.DecideDropMember(member, w.readMember(member), nil, w.facts); plan != nil {
			w.Fatalf("would drop another's role:\n%s", show(plan))
		}
		member.Access = map[string]string{"public": "everything"}
		_, err = postgres.DecideMember(member, w.readMember(member), w.facts)
		refused(w, err, postgres.NotSupported)
	})
}

func TestAMemberOfAnExternalDatabase(t *testing.T) {
	everywhere(t, func(w *world) {
		name := w.kit.NewDatabaseName(w)
		theirs := name + "_theirs"
		w.kit.Exec(w, "", "CREATE ROLE "+theirs+"; GRANT "+theirs+" TO "+w.admin.User+" WITH ADMIN OPTION")
		w.kit.Exec(w, "", "CREATE DATABASE "+name+" OWNER "+theirs)
		w.kit.Exec(w, name, "SET ROLE "+theirs+"; CREATE TABLE t (id serial)")
		member := postgres.Member{Database: name, DatabaseOwner: theirs, Role: name + "_m", Marker: roleMarker(name), External: true, Access: map[string]string{"public": postgres.ReadOnly}}
		w.ensureMember(member)
		reader := w.login(member.Role+"_a", member.Role, name, "one")
		w.kit.Exec(w, name, "SET ROLE "+theirs+"; CREATE TABLE later (id serial)")
		w.must(reader, "SELECT * FROM t; SELECT * FROM later")
		w.denied(reader, "INSERT INTO t DEFAULT VALUES")
		w.denied(reader, "INSERT INTO later DEFAULT VALUES")
		w.interruptAll(postgres.DecideDropMember(member, w.readMember(member), []postgres.LoginState{w.readLogin(reader.User)}, w.facts))
		if got := w.kit.Query(w, name, "SELECT tableowner FROM pg_tables WHERE schemaname = 'public'"); !cmp.Equal(got, []string{theirs, theirs}) {
			w.Fatalf("owners = %q", got)
		}
		if w.readLogin(member.Role).Exists || w.readLogin(reader.User).Exists {
			w.Fatal("a role is left behind")
		}
	})
}
