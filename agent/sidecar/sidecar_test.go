package sidecar_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/agent/sidecar"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/mount"
	"github.com/berth-dev/berth/postgres"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// start runs a program in the place of the agent.
func start(t *testing.T, agent string) (p *sidecar.Proxy, dir string) {
	t.Helper()
	dir = filepath.Join(testkit.OpenDir(t), "proxy")
	if err := errors.Join(os.Mkdir(dir, 0o711), os.Chmod(dir, 0o711)); err != nil {
		t.Fatal(err)
	}
	p, err := sidecar.Start(sidecar.Spec{Agent: agent, Pgbouncer: testkit.Bin(t, "pgbouncer"), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(0); err != nil {
			t.Error(err)
		}
	})
	return p, dir
}

func TestShowsTheSecretAsTheKubeletDoes(t *testing.T) {
	t.Parallel()
	p, dir := start(t, "/bin/false")
	folder := filepath.Join(dir, "secret")
	for _, user := range []string{"orders_a", "orders_b"} {
		want := postgres.Target{Host: "h", Port: 5432, User: user, Password: "p-" + user, Database: "orders", SSLMode: "disable"}
		if err := p.Show(map[string][]byte{"uri_dsn.txt": []byte(want.URI()), "username": []byte(user)}); err != nil {
			t.Fatal(err)
		}
		got, err := mount.Dir(folder).Read()
		if err != nil || got.URI() != want.URI() {
			t.Fatalf("shows user %s (%v), want %s", got.User, err, user)
		}
	}
	versions, err := filepath.Glob(filepath.Join(folder, "..v*"))
	if err != nil || len(versions) != 1 {
		t.Errorf("versions %v, %v", versions, err)
	}
	file := filepath.Join(folder, "..data", "uri_dsn.txt")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("%s: %v, %v", file, info.Mode(), err)
	}
}

func TestSaysThatTheProxyHasEnded(t *testing.T) {
	t.Parallel()
	p, _ := start(t, "/bin/false")
	if err := p.AwaitLogin(t.Context(), "orders_a"); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("error %v", err)
	}
}

func TestALoadCountsWhatItSaw(t *testing.T) {
	t.Parallel()
	to := testkit.Postgres(t, 15).Target()
	for name, tc := range map[string]struct {
		client      func(*sidecar.Load, context.Context, context.Context, postgres.Target, time.Duration, sidecar.Work)
		connections int
	}{
		"a client that stays has one connection":    {(*sidecar.Load).Stay, 1},
		"one that comes and goes has one each time": {(*sidecar.Load).ComeAndGo, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			working, rest := context.WithCancel(t.Context())
			defer rest()
			var load sidecar.Load
			connections := map[uint32]bool{}
			tc.client(&load, t.Context(), working, to, time.Millisecond, func(ctx context.Context, conn *pgx.Conn) error {
				connections[conn.PgConn().PID()] = true
				if load.Done == 1 && load.Failed == 0 {
					_, err := conn.Exec(ctx, "SELECT 1/0")
					return err
				}
				if load.Done+load.Failed == 2 {
					rest()
				}
				_, err := conn.Exec(ctx, "SELECT pg_sleep(0.05)")
				return err
			})
			if load.Done != 2 || load.Failed != 1 || load.First == nil || load.Longest < 50*time.Millisecond || len(connections) != tc.connections {
				t.Errorf("%d done, %d failed (%v), longest %v, %d connections", load.Done, load.Failed, load.First, load.Longest, len(connections))
			}
		})
	}
}

func TestALoadCountsWhatCannotConnect(t *testing.T) {
	t.Parallel()
	working, rest := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer rest()
	var load sidecar.Load
	nowhere := postgres.Target{Host: "127.0.0.1", Port: 1, User: "app", Database: "orders", SSLMode: "disable"}
	load.Stay(t.Context(), working, nowhere, time.Millisecond, nil)
	if load.Failed == 0 || load.Done != 0 {
		t.Errorf("%d done, %d failed", load.Done, load.Failed)
	}
}
