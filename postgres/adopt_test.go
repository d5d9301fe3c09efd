package postgres_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/postgres"
)

// estate is a little of everything that has an owner.
const estate = `
CREATE SCHEMA "Odd Schema";
CREATE TABLE t (id serial PRIMARY KEY, identity int GENERATED ALWAYS AS IDENTITY);
CREATE TABLE parent (id int) PARTITION BY RANGE (id);
CREATE TABLE child PARTITION OF parent FOR VALUES FROM (0) TO (9);
CREATE UNLOGGED TABLE "Odd Schema"."Odd ""Table""" (id int);
CREATE VIEW v AS SELECT 1 AS one;
CREATE MATERIALIZED VIEW m AS SELECT 1 AS one;
CREATE SEQUENCE s;
CREATE FUNCTION f(a int, b text DEFAULT 'x') RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int);
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (a int, b int);
CREATE TYPE span AS RANGE (SUBTYPE = int);
CREATE DOMAIN short AS text CHECK (length(VALUE) < 9);
CREATE COLLATION c FROM "C";
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
CREATE STATISTICS st ON id, identity FROM t;
CREATE TEXT SEARCH DICTIONARY d (TEMPLATE = simple);
CREATE TEXT SEARCH CONFIGURATION cfg (PARSER = default);
SELECT lo_create(0);`

func TestAdoptionGivesEverythingToTheOwner(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		want.Adopt = true
		former := want.Name + "_former"
		w.kit.Exec(w, "", "CREATE ROLE "+former+" LOGIN PASSWORD 'old'; GRANT "+former+" TO "+w.admin.User+" WITH ADMIN OPTION")
		w.kit.Exec(w, "", "CREATE DATABASE "+want.Name+" OWNER "+former)
		w.kit.Exec(w, "", "COMMENT ON DATABASE "+want.Name+" IS 'the shop'")
		w.kit.Exec(w, want.Name, "CREATE EXTENSION citext; SET ROLE "+former+";"+estate)
		if w.facts.Superuser {
			w.kit.Exec(w, want.Name, "CREATE TABLE by_superuser (id int); CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw; CREATE FOREIGN TABLE ft (id int) SERVER far")
		}
		plan := w.plan(want)
		w.interruptAll(plan)
		w.settled(want)
		got := w.kit.Query(w, want.Name, `
			SELECT d.classid::regclass::text || ' ' || d.objid FROM pg_shdepend d WHERE d.deptype = 'o' AND d.refobjid = '`+former+`'::regrole
				AND d.classid <> 'pg_default_acl'::regclass AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
				AND NOT EXISTS (SELECT FROM pg_type y WHERE y.oid = d.objid AND y.typtype = 'm')
			UNION ALL SELECT relname FROM pg_class WHERE relowner = 10 AND relnamespace = 'public'::regnamespace`)
		if got != nil {
			w.Fatalf("not handed over: %q", got)
		}
		if owner := w.kit.Query(w, want.Name, "SELECT DISTINCT proowner::regrole FROM pg_proc WHERE oid IN (SELECT objid FROM pg_depend WHERE deptype = 'e')"); cmp.Equal(owner, []string{want.Owner}) {
			w.Fatal("the objects of an extension changed hands")
		}
		app := w.login(want.Name+"_a", want.Owner, want.Name, "one")
		w.must(app, `INSERT INTO t DEFAULT VALUES; DROP TABLE parent; ALTER TYPE mood ADD VALUE 'new'; ALTER TABLE "Odd Schema"."Odd ""Table""" ADD COLUMN b int; REFRESH MATERIALIZED VIEW m`)
		w.kit.Exec(w, want.Name, `GRANT CREATE, USAGE ON SCHEMA "Odd Schema" TO `+former+"; SET ROLE "+former+`; CREATE TABLE "Odd Schema".later (id int)`)
		w.must(app, `INSERT INTO "Odd Schema".later VALUES (1)`)
	})
}

func TestAdoptionFromAnotherClaim(t *testing.T) {
	everywhere(t, func(w *world) {
		first := w.database()
		w.ensure(first)
		app := w.login(first.Name+"_a", first.Owner, first.Name, "one")
		w.must(app, "CREATE TABLE kept (id int)")
		second := first
		second.Owner, second.Marker, second.Adopt = first.Name+"_second", marker(first.Name+"-second"), true
		w.ensure(second)
		if got := w.kit.Query(w, first.Name, "SELECT tableowner FROM pg_tables WHERE tablename = 'kept'"); !cmp.Equal(got, []string{second.Owner}) {
			w.Fatalf("owner = %q", got)
		}
		_, err := postgres.DecideDatabase(first, w.read(first), w.facts)
		refused(w, err, postgres.DatabaseNotOurs)
		w.apply(postgres.DecideDrop(first, w.read(first), nil, w.facts))
		w.settled(second)
	})
}

func TestAnAdministratorThatMayNotHandOverSaysSo(t *testing.T) {
	everywhere(t, func(w *world) {
		if w.facts.Superuser {
			w.Log("a superuser may hand over everything: covered by the adoption test")
			return
		}
		want := w.database()
		want.Adopt = true
		w.kit.Exec(w, "", "CREATE DATABASE "+want.Name)
		_, err := postgres.DecideDatabase(want, w.read(want), w.facts)
		refused(w, err, postgres.NotPermitted)
	})
}

func TestANewOwnerNameMovesTheOwnersObjectsAndNotThoseOfMembers(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		want.Schemas = []string{"app"}
		w.ensure(want)
		w.must(w.login(want.Name+"_a", want.Owner, want.Name, "one"), "CREATE TABLE app.mine (id int); CREATE TABLE public.mine (id int)")
		member := postgres.Member{Database: want.Name, DatabaseOwner: want.Owner, Role: want.Name + "_m", Marker: roleMarker(want.Name), Access: map[string]string{"app": postgres.Admin}}
		w.ensureMember(member)
		w.must(w.login(member.Role+"_a", member.Role, want.Name, "two"), "CREATE TABLE app.theirs (id int)")
		want.Owner += "2"
		w.interruptAll(w.plan(want))
		w.settled(want)
		got := w.kit.Query(w, want.Name, "SELECT tablename, tableowner FROM pg_tables WHERE schemaname IN ('app', 'public') ORDER BY schemaname, 1")
		if diff := cmp.Diff([]string{"mine|" + want.Owner, "theirs|" + member.Role, "mine|" + want.Owner}, got); diff != "" {
			w.Fatal(diff)
		}
	})
}

func TestAnExternalDatabaseOnlyGetsGrants(t *testing.T) {
	everywhere(t, func(w *world) {
		want := w.database()
		want.External = true
		theirs := want.Name + "_theirs"
		w.kit.Exec(w, "", "CREATE ROLE "+theirs+"; GRANT "+theirs+" TO "+w.admin.User+" WITH ADMIN OPTION")
		w.kit.Exec(w, "", "CREATE DATABASE "+want.Name+" OWNER "+theirs)
		w.kit.Exec(w, "", "REVOKE ALL ON DATABASE "+want.Name+" FROM PUBLIC")
		w.kit.Exec(w, want.Name, "CREATE EXTENSION citext; SET ROLE "+theirs+";"+estate)
		before := w.kit.Query(w, want.Name, owners)
		w.interruptAll(w.plan(want))
		w.settled(want)
		app := w.login(want.Name+"_a", want.Owner, want.Name, "one")
		w.must(app, `INSERT INTO t DEFAULT VALUES; SELECT * FROM v; SELECT nextval('s'), f(1); CALL p(); DELETE FROM parent; TRUNCATE "Odd Schema"."Odd ""Table"""; CREATE TABLE mine (id int); CREATE SCHEMA own`)
		w.kit.Exec(w, want.Name, "SET ROLE "+theirs+"; CREATE TABLE later (id serial)")
		w.must(app, "INSERT INTO later DEFAULT VALUES; TRUNCATE later")
		w.denied(app, "DROP TABLE t")
		w.apply(w.plan(want))
		w.settled(want)

		w.interruptAll(postgres.DecideDrop(want, w.read(want), []postgres.LoginState{w.readLogin(app.User)}, w.facts))
		if diff := cmp.Diff(before, w.kit.Query(w, want.Name, owners)); diff != "" {
			w.Fatal(diff)
		}
		if got := w.kit.Query(w, want.Name, "SELECT tableowner FROM pg_tables WHERE tablename IN ('mine', 'later')"); !cmp.Equal(got, []string{theirs, theirs}) {
			w.Fatalf("what both made belongs to %q", got)
		}
		if w.readLogin(want.Owner).Exists {
			w.Fatal("the owner role is still there")
		}
	})
}

// owners lists who owns what, and whether the claim's role may use it.
const owners = `SELECT relname, relowner::regrole, coalesce(relacl::text LIKE '%_owner=%', false) FROM pg_class
	WHERE relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'Odd Schema'))
		AND relkind IN ('r','p','v','m','S') AND relname NOT LIKE 'later%' AND relname <> 'mine' ORDER BY 1`
