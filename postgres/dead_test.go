package postgres_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
)

// tries calls the server from many goroutines at once and returns how long
// each took; every call has to fail as unreachable.
func tries(t *testing.T, server *postgres.Server, n int) []time.Duration {
	t.Helper()
	took := make([]time.Duration, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			start := time.Now()
			_, err := server.Sessions(t.Context(), "nobody")
			took[i] = time.Since(start)
			if !errors.Is(err, postgres.ErrUnreachable) {
				t.Errorf("want unreachable, have %v", err)
			}
			if fault := postgres.Explain(err); fault.Permanent || fault.Reason != postgres.Unreachable && fault.Reason != postgres.ServerStarting {
				t.Errorf("fault = %+v", fault)
			}
		})
	}
	group.Wait()
	return took
}

func blocked(took []time.Duration) (n int, longest time.Duration) {
	for _, d := range took {
		longest = max(longest, d)
		if d > 2*time.Second { // the one contact takes three
			n++
		}
	}
	return n, longest
}

func TestADeadServerBlocksAtMostOneGoroutine(t *testing.T) {
	t.Parallel()
	for name, die := range map[string]func(*testing.T, *testkit.PostgresServer) func(){
		"it answers no more": func(t *testing.T, kit *testkit.PostgresServer) func() { return kit.Freeze(t) },
		"it is gone":         func(t *testing.T, kit *testkit.PostgresServer) func() { kit.Kill(t); return func() { kit.Start(t) } },
	} {
		for _, known := range []bool{true, false} {
			t.Run(map[bool]string{true: name + " after good days", false: name + " from the first"}[known], func(t *testing.T) {
				t.Parallel()
				kit := testkit.NewPostgres(t, 17)
				servers := postgres.NewServers(postgres.Limits{})
				defer servers.Close()
				server := servers.Get(kit.Target())
				if known {
					if _, err := server.Facts(t.Context()); err != nil {
						t.Fatal(err)
					}
					postgres.Doubt(server)
				}
				revive := sync.OnceFunc(die(t, kit))
				t.Cleanup(revive)
				if n, longest := blocked(tries(t, server, 40)); n > 1 || longest > 4*time.Second {
					t.Fatalf("%d goroutines were blocked, for up to %s", n, longest)
				}
				if n, longest := blocked(tries(t, server, 40)); n > 0 {
					t.Fatalf("the open breaker let %d goroutines wait, for up to %s", n, longest)
				}
				revive()
				eventually(t, server)
			})
		}
	}
}

func eventually(t *testing.T, server *postgres.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for {
		_, err := server.Sessions(ctx, "nobody")
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("never came back: %v", err)
		case <-retry.C:
		}
	}
}

func TestARestartCostsAtMostTheCallsUnderWay(t *testing.T) {
	t.Parallel()
	kit := testkit.NewPostgres(t, 18)
	servers := postgres.NewServers(postgres.Limits{})
	defer servers.Close()
	server := servers.Get(kit.Target())
	if _, err := server.Facts(t.Context()); err != nil {
		t.Fatal(err)
	}
	kit.Restart(t)
	postgres.Doubt(server)
	if _, err := server.Sessions(t.Context(), "nobody"); err != nil {
		t.Fatalf("the first call after a restart: %v", err)
	}
}

func TestServersKeepOnePoolForEachPassword(t *testing.T) {
	t.Parallel()
	kit := testkit.Postgres(t, 15)
	servers := postgres.NewServers(postgres.Limits{Connections: 2})
	defer servers.Close()
	target := kit.Admin(t)
	server := servers.Get(target)
	if servers.Get(target) != server {
		t.Fatal("the same target has two pools")
	}
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if _, err := server.Sessions(t.Context(), target.User); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n, err := server.Sessions(t.Context(), target.User); err != nil || n > 3 { // two, and one that only reads
		t.Fatalf("connections = %d, %v", n, err)
	}
	wrong := target
	wrong.Password = "wrong"
	_, err := servers.Get(wrong).Facts(t.Context())
	if fault := postgres.Explain(err); fault.Reason != postgres.LoginRefused || !fault.Permanent {
		t.Fatalf("a wrong password: %v", err)
	}
	if _, err := servers.Get(target).Facts(t.Context()); err != nil {
		t.Fatalf("the right password after a wrong one: %v", err)
	}
	kit.Exec(t, "", "ALTER ROLE "+target.User+" PASSWORD 'changed'")
	target.Password = "changed"
	changed := servers.Get(target)
	if _, err := changed.Sessions(t.Context(), target.User); err != nil {
		t.Fatalf("the changed password: %v", err)
	}
	servers.Close()
	if _, err := changed.Sessions(t.Context(), target.User); err == nil {
		t.Fatal("a closed pool still works")
	}
}
