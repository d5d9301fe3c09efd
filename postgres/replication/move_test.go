package replication_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/postgres/replication"
)

// on runs a story on each pair of majors.
func on(t *testing.T, story func(w *world)) {
	t.Parallel()
	for _, p := range pairs {
		t.Run(fmt.Sprintf("%d to %d", p[0], p[1]), func(t *testing.T) {
			t.Parallel()
			story(newWorld(t, p[0], p[1]))
		})
	}
}

func TestADatabaseArrivesWhole(t *testing.T) {
	on(t, func(w *world) {
		w.copied()
		differences, err := w.pair.Differences(w.Context())
		w.must(err)
		if len(differences) > 0 {
			w.Errorf("the schemas differ: %v", differences)
		}
		checker, err := replication.NewChecker(w.Context(), w.pair)
		w.must(err)
		defer checker.Close()
		w.must(checker.Full(w.Context()))
		if rows, tables, err := checker.Round(w.Context()); err != nil || rows+tables > 0 {
			w.Errorf("%d rows and %d tables differ in %v: %v", rows, tables, checker.Differing(), err)
		}
		from, to := w.open(w.pair.From), w.open(w.pair.To)
		_, err = replication.PrepareSequences(w.Context(), from, to, w.pair.Name)
		w.must(err)
		if diff := cmp.Diff(w.content(w.from), w.content(w.to)); diff != "" {
			w.Errorf("content differs (-source +target):\n%s", diff)
		}
		for what, sql := range map[string]string{
			"settings of the database": `SELECT s.setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase ORDER BY s.setrole <> 0`,
			"roles":                    `SELECT rolname, rolcanlogin, rolpassword, rolconfig FROM pg_authid a LEFT JOIN (SELECT setrole, setconfig AS rolconfig FROM pg_db_role_setting WHERE setdatabase = 0) s ON setrole = a.oid WHERE rolname ~ '^tenant|reader' ORDER BY 1`,
			"memberships":              `SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members WHERE member::regrole::text ~ '^tenant' ORDER BY 1, 2`,
			"grants of the database":   `SELECT datdba::regrole, encoding, datcollate, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'app db'`,
			"privileges":               `SELECT grantee::regrole::text, privilege_type FROM pg_database, aclexplode(datacl) WHERE datname = 'app db' AND grantee::regrole::text !~ '^berth' ORDER BY 1, 2`,
			"materialized view":        `SELECT count(*) FROM app.totals`,
			"called sequences":         `SELECT is_called FROM app.uncalled UNION ALL SELECT is_called FROM app.down`,
		} {
			if diff := cmp.Diff(w.from.Query(w, w.database, sql), w.to.Query(w, w.database, sql)); diff != "" {
				w.Errorf("%s differ (-source +target):\n%s", what, diff)
			}
		}
	})
}

func TestAnAbortLeavesTheSourceAsItWas(t *testing.T) {
	on(t, func(w *world) {
		before, fingerprint := w.content(w.from), w.fingerprint()
		w.copied()
		w.must(w.pair.PrepareReverse(w.Context(), 2))
		w.must(w.pair.Abort(w.Context()))
		w.must(w.pair.Abort(w.Context())) // a crash at its end repeats it
		if diff := cmp.Diff(before, w.content(w.from)); diff != "" {
			w.Errorf("content changed:\n%s", diff)
		}
		if got := w.fingerprint(); got != fingerprint {
			w.Errorf("the schema's fingerprint changed from %s to %s", fingerprint, got)
		}
		if left := w.leftovers(w.from, w.database); len(left) > 0 {
			w.Errorf("on the source is left: %v", left)
		}
		if left := w.leftovers(w.to, ""); len(left) > 0 {
			w.Errorf("on the target is left: %v", left)
		}
		if n := w.to.Query(w, "", "SELECT count(*) FROM pg_database WHERE datname = 'app db'"); n[0] != "0" {
			w.Error("the target's database is left")
		}
		if roles := w.to.Query(w, "", "SELECT rolname FROM pg_roles WHERE rolname ~ 'tenant|reader'"); len(roles) > 0 {
			w.Errorf("roles are left on the target: %v", roles)
		}
	})
}

func (w *world) fingerprint() string {
	w.Helper()
	out, err := w.pair.From.Fingerprint(w.Context(), w.pair.Name)
	w.must(err)
	return out
}

func TestADatabaseOfSomebodyElseIsNotTouched(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, 17)
	w.to.Exec(t, "", `CREATE DATABASE "app db"`)
	w.to.Exec(t, w.database, "CREATE TABLE precious AS SELECT 1")
	for range 2 {
		if err := w.pair.Begin(w.Context(), replication.Options{}); err == nil {
			t.Fatal("a schema was copied into it")
		}
	}
	if err := w.pair.Abort(w.Context()); err == nil {
		t.Error("an abort said nothing of a database it could not have made")
	}
	if got := w.to.Query(t, w.database, "SELECT count(*) FROM precious"); got[0] != "1" {
		t.Error("its table is gone")
	}
}

func TestAChangedRowIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, 17)
	w.copied()
	for name, tc := range map[string]struct{ sql, table string }{
		"a row that was changed by hand on the target":  {"UPDATE app.events SET body = '{}' WHERE id = 17", `"app"."events"`},
		"a row that is gone":                            {"DELETE FROM app.toasted WHERE id = 3", `"app"."toasted"`},
		"a row too much":                                {"INSERT INTO app.secrets VALUES (999, 'x', 'y')", `"app"."secrets"`},
		"a scale that a comparison of numbers misses":   {`UPDATE "odd ""name"."Table ü" SET v = 1.0 WHERE "k%2" = 1 AND "Key 1" LIKE 'tab%'`, `"odd ""name"."Table ü"`},
		"two rows whose difference an XOR would cancel": {"UPDATE app.nokey SET b = 'same' WHERE a IN (1, 2)", `"app"."nokey"`},
	} {
		t.Run(name, func(t *testing.T) {
			w.to.Exec(t, w.database, "SET session_replication_role = replica; "+tc.sql)
			checker, err := replication.NewChecker(t.Context(), w.pair)
			w.must(err)
			defer checker.Close()
			w.must(checker.Full(t.Context()))
			rows, tables, err := checker.Round(t.Context())
			w.must(err)
			if rows+tables == 0 || !slices.Contains(checker.Differing(), tc.table) {
				t.Errorf("%d rows and %d tables differ, in %v", rows, tables, checker.Differing())
			}
		})
	}
}

func TestNothingSecretIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, 17)
	w.from.LogStatements(t)
	w.to.LogStatements(t)
	w.copied()
	w.must(w.pair.PrepareReverse(t.Context(), 2))
	verifier := w.from.Query(t, "", "SELECT rolpassword FROM pg_authid WHERE rolname = 'tenant_a'")[0]
	for _, secret := range []string{"link-" + t.Name(), "SCRAM-SHA-256$", verifier} {
		for _, log := range []string{w.from.Log(), w.to.Log(), fmt.Sprintf("%v %+v", w.pair, w.pair)} {
			if i := strings.Index(log, secret); i >= 0 {
				t.Errorf("a secret is told: %.200s", log[max(0, i-100):])
			}
		}
	}
}
