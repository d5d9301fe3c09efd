package postgres_test

import (
	"context"
	"testing"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
)

// FuzzNames has a real server take any name that CheckName lets pass: it must
// make exactly the role of that name, and nothing else.
func FuzzNames(f *testing.F) {
	for _, name := range []string{"orders", `a"b`, `x"; DROP ROLE postgres; --`, "größe", "'", `\`, "select", " ", "$1", "a.b", "Ünï\u200bcode", "%s"} {
		f.Add(name)
	}
	server := testkit.Postgres(f, 15)
	conn, err := testkit.Connect(context.Background(), server.Target())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = conn.Close(context.Background()) })
	f.Fuzz(func(t *testing.T, name string) {
		if postgres.CheckName("role", name) != nil {
			return
		}
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
		var before, after, named int
		count := "SELECT count(*), count(*) FILTER (WHERE rolname = $1) FROM pg_roles"
		if err := tx.QueryRow(t.Context(), count, name).Scan(&before, &named); err != nil {
			t.Fatal(err)
		}
		for _, s := range postgres.DecideLogin(postgres.Login{Name: name}, postgres.LoginState{}, postgres.Facts{}) {
			if _, err := tx.Exec(t.Context(), s.SQL); err != nil {
				t.Fatalf("%q: %v", name, err)
			}
		}
		if err := tx.QueryRow(t.Context(), count, name).Scan(&after, &named); err != nil {
			t.Fatal(err)
		}
		if after != before+1 || named != 1 {
			t.Fatalf("%q made %d roles, %d of that name", name, after-before, named)
		}
	})
}
