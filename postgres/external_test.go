package postgres_test

import (
	"testing"

	"github.com/berth-dev/berth/postgres"
)

// Claims that share somebody else's database are strangers to each other.
func TestClaimsOnOneExternalDatabaseGetNothingOfEachOther(t *testing.T) {
	everywhere(t, func(w *world) {
		name := w.kit.NewDatabaseName(w.T)
		if err := w.server.Apply(w.Context(), []postgres.Statement{{SQL: "CREATE DATABASE " + name, Alone: true}}); err != nil {
			w.Fatal(err)
		}
		want := func(owner string) postgres.Database {
			return postgres.Database{Name: name, Owner: name + owner, External: true,
				Marker: postgres.Marker{Cluster: "test", Claim: "test/" + owner, Kind: postgres.DatabaseClaim}}
		}
		for _, owner := range []string{"_one", "_two"} {
			have, err := w.server.ReadDatabase(w.Context(), want(owner))
			if err != nil {
				w.Fatal(err)
			}
			plan, err := postgres.DecideDatabase(want(owner), have, w.facts)
			if err == nil {
				err = w.server.Apply(w.Context(), plan)
			}
			if err != nil {
				w.Fatal(err)
			}
		}
		w.kit.Exec(w.T, name, "GRANT CREATE ON SCHEMA public TO "+name+"_one; SET ROLE "+name+"_one; CREATE TABLE mine (x int)")
		for _, owner := range []string{"_one", "_two"} {
			have, err := w.server.ReadDatabase(w.Context(), want(owner))
			if err != nil {
				w.Fatal(err)
			}
			if plan, err := postgres.DecideDatabase(want(owner), have, w.facts); err != nil || len(plan) > 0 {
				w.Errorf("%s is to be changed by %v, %v", owner, plan, err)
			}
		}
		if got := w.kit.Query(w.T, name, "SELECT has_table_privilege('"+name+"_two', 'mine', 'SELECT')"); got[0] != "false" && got[0] != "f" {
			w.Errorf("a stranger may read: %s", got[0])
		}
	})
}
