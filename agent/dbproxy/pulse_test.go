package dbproxy_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/process"
)

const hangs = "berth_dbproxy_pgbouncer_hangs_total"

// A pgbouncer that hangs is started again, and what came meanwhile is served.
func TestAHangIsEnded(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t)
	a.ask(t, "SELECT 'works'")
	stuck := a.child()
	must(t, syscall.Kill(stuck, syscall.SIGSTOP))
	next := c.open(t, "_b")
	c.publish(t, next)
	eventually(t, "the silence is shown", func() bool {
		_, metrics := a.get("/metrics")
		return strings.Contains(metrics, "\nberth_dbproxy_answering 0\n") && !strings.Contains(metrics, "\nberth_dbproxy_clients")
	})
	eventually(t, "the hang is counted", func() bool { return a.metric(hangs) == 1 })
	eventually(t, "the new login is in use", func() bool { return a.child() != stuck && a.login() == next.User })
	if got := a.ask(t, "SELECT session_user::text"); got != next.User {
		t.Errorf("session_user = %s, want %s", got, next.User)
	}
	if got := a.metric("berth_dbproxy_answering"); got != 1 {
		t.Errorf("answering = %v", got)
	}
	for _, said := range []string{"pgbouncer does not answer", "pgbouncer hangs"} {
		if !strings.Contains(a.log.String(), said) {
			t.Errorf("the log does not say %q", said)
		}
	}
	if !gone(stuck) {
		t.Error("the pgbouncer that hung is still there")
	}
}

// beyondAHang is longer than a pgbouncer may be silent.
const beyondAHang = 14 * time.Second

func TestNoHangIsSeenWhereThereIsNone(t *testing.T) {
	t.Parallel()
	for name, situation := range map[string]func(t *testing.T, a *agent) (end func()){
		"every client waits for the only connection": func(t *testing.T, a *agent) func() {
			holder := a.connect(t)
			tx, err := holder.Begin(t.Context())
			must(t, err)
			_, err = tx.Exec(t.Context(), insert)
			must(t, err)
			l := a.load(t, 4, 2)
			eventually(t, "clients wait", func() bool { return a.metric("berth_dbproxy_waiting") > 0 })
			<-time.After(beyondAHang)
			return func() {
				must(t, tx.Commit(t.Context()))
				l.end()
				if len(l.errs) > 0 {
					t.Errorf("a client failed: %s", l.errs[0])
				}
			}
		},
		"it was told to pause": func(t *testing.T, a *agent) func() {
			a.tell(t, "PAUSE")
			<-time.After(beyondAHang)
			return func() { a.tell(t, "RESUME") }
		},
		"it is late for a moment": func(t *testing.T, a *agent) func() {
			must(t, syscall.Kill(a.child(), syscall.SIGSTOP))
			<-time.After(4 * time.Second)
			return func() { must(t, syscall.Kill(a.child(), syscall.SIGCONT)) }
		},
		"it was frozen together with the proxy": func(t *testing.T, a *agent) func() {
			child := a.child()
			must(t, syscall.Kill(a.process.Pid(), syscall.SIGSTOP))
			must(t, syscall.Kill(child, syscall.SIGSTOP))
			<-time.After(beyondAHang)
			a.signal(t, syscall.SIGCONT)
			return func() { must(t, syscall.Kill(child, syscall.SIGCONT)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTenant(t, testkit.Postgres(t, 15))
			c.publish(t, c.open(t, "_a"))
			a := c.ready(t, "--pool-size", "1")
			a.ask(t, "SELECT 'works'")
			child := a.child()
			situation(t, a)()
			eventually(t, "it answers", func() bool { return a.metric("berth_dbproxy_answering") == 1 })
			a.ask(t, "SELECT 'still works'")
			if a.child() != child || a.metric(hangs) != 0 {
				t.Errorf("it was taken for hanging %v times", a.metric(hangs))
			}
		})
	}
}

// tell gives pgbouncer a command over its console, as the account it runs as.
func (a *agent) tell(t *testing.T, command string) {
	t.Helper()
	psql, err := filepath.EvalSymlinks(testkit.Bin(t, "pg/15/bin/psql"))
	must(t, err)
	var said buffer
	err = process.Run(t.Context(), process.Spec{Path: psql, User: account(), Dir: "/", Log: &said, Args: []string{
		"-X", "-h", filepath.Join(a.state, "pgbouncer"), "-p", fmt.Sprint(a.port), "-U", "pgbouncer", "-d", "pgbouncer", "-c", command}})
	if err != nil {
		t.Fatalf("telling pgbouncer to %s: %v: %s", command, err, &said)
	}
}
