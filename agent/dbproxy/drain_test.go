package dbproxy_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/internal/testkit"
)

func TestDrainLetsATransactionFinish(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t)
	conn := a.connect(t)
	tx, err := conn.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), insert)
	must(t, err)
	a.signal(t, syscall.SIGTERM)
	eventually(t, "it drains", func() bool { return a.metric("berth_dbproxy_draining") == 1 })
	eventually(t, "a new client is refused", func() bool {
		late, err := testkit.Connect(t.Context(), a.target())
		if err == nil {
			_ = late.Close(t.Context())
			return false
		}
		return strings.Contains(err.Error(), "disabled")
	})
	_, err = tx.Exec(t.Context(), "SELECT pg_sleep(0.5)")
	must(t, err)
	must(t, tx.Commit(t.Context()))
	_, err = conn.Exec(t.Context(), insert) // a program may have more to do before it ends
	must(t, err)
	must(t, conn.Close(t.Context()))
	began := time.Now()
	if code := a.exitCode(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it ended %v after the last client", took)
	}
	if rows := c.server.Query(t, c.database, "SELECT count(*) FROM app.events")[0]; rows != "2" {
		t.Errorf("%s rows are there of two that were acknowledged", rows)
	}
}

// Clients that never leave do not hold the pod up, and what they have running
// is finished and answered.
func TestDrainEndsInTime(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t, "--drain", "3s")
	idle := a.connect(t)
	one(t, idle, "SELECT 'here'")
	var busy sync.WaitGroup
	var answered atomic.Int64
	for range 4 {
		conn := a.connect(t)
		busy.Go(func() {
			for {
				// One message: the server commits it, whether or not anybody waits for the answer.
				if _, err := conn.PgConn().Exec(t.Context(), "INSERT INTO app.events SELECT FROM pg_sleep(0.3)").ReadAll(); err != nil {
					return
				}
				answered.Add(1)
			}
		})
	}
	eventually(t, "statements run", func() bool { return c.sessions(t, "_a") > 0 })
	began := time.Now()
	a.signal(t, syscall.SIGTERM)
	if code := a.exitCode(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %v to end", took)
	}
	busy.Wait()
	eventually(t, "no session is left", func() bool { return c.sessions(t, "_a") == 0 })
	if rows := c.server.Query(t, c.database, "SELECT count(*) FROM app.events")[0]; rows != fmt.Sprint(answered.Load()) {
		t.Errorf("%s rows were written, %d answers arrived", rows, answered.Load())
	}
}

func TestDrainCutsWhatStaysBeyondItsTime(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t, "--drain", "1s")
	conn := a.connect(t)
	tx, err := conn.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), insert)
	must(t, err)
	child := a.child()
	began := time.Now()
	a.signal(t, syscall.SIGTERM)
	if code := a.exitCode(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v to end", took)
	}
	if !gone(child) {
		t.Error("pgbouncer is still there")
	}
}
