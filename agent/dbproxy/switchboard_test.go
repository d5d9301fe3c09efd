package dbproxy_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/switchboard"
	"github.com/berth-dev/berth/switchboard/boardtest"
)

// exchange is a switchboard with one claim, whose log is looked through for
// secrets when the test ends.
type exchange struct {
	*boardtest.Exchange
	claim  switchboard.Claim
	tenant *tenant
}

func newExchange(t testing.TB, c *tenant) *exchange {
	t.Helper()
	log := &buffer{}
	t.Cleanup(func() {
		for _, password := range c.passwords {
			if strings.Contains(log.String(), password) {
				t.Errorf("the switchboard says a password:\n%s", log)
			}
		}
	})
	e := boardtest.Serve(t, nil, slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return &exchange{Exchange: e, claim: e.Claim(testkit.Namespace(t), "orders"), tenant: c}
}

// proxies starts some, each of a pod of its own, and waits until they are known.
func (e *exchange) proxies(t testing.TB, n int) []*agent {
	t.Helper()
	var all []*agent
	for i := range n {
		all = append(all, e.tenant.ready(t, e.Flags(fmt.Sprint("pod-", i), e.claim)...))
	}
	e.AwaitReaders(e.claim, "all proxies are known", func(logins map[string]string) bool { return len(logins) == n })
	return all
}

// order moves the claim to target, or nobody for nil.
func (e *exchange) order(target *postgres.Target) switchboard.Order {
	o := switchboard.Order{Generation: e.Generation(e.claim) + 1, Claims: []switchboard.Claim{e.claim}, Budget: 20 * time.Second}
	if target != nil {
		o.Targets = map[switchboard.Claim]postgres.Target{e.claim: *target}
	}
	return o
}

func (e *exchange) hold(t testing.TB, target *postgres.Target) *switchboard.Operation {
	t.Helper()
	op, err := e.Hold(t.Context(), e.order(target))
	must(t, err)
	return op
}

// rows counts what all loads wrote, wherever it is.
func rows(t testing.TB, places ...*tenant) int {
	t.Helper()
	sum := 0
	for _, c := range places {
		n, err := strconv.Atoi(c.server.Query(t, c.database, "SELECT count(*) FROM app.events")[0])
		must(t, err)
		sum += n
	}
	return sum
}

// checkLoads ends loads, and fails on an error or a lost row.
func checkLoads(t testing.TB, loads []*load, places ...*tenant) {
	t.Helper()
	written, longest := 0, time.Duration(0)
	for _, l := range loads {
		l.end()
		written, longest = written+l.written, max(longest, l.longest)
		if len(l.errs) > 0 {
			t.Errorf("%d client errors, such as: %s", len(l.errs), strings.Join(slices.Compact(l.errs[:min(5, len(l.errs))]), "; "))
		}
	}
	if n := rows(t, places...); n < written {
		t.Errorf("%d rows are there of %d that were acknowledged", n, written)
	}
	t.Logf("%d pieces of work, longest stall %v", written, longest.Round(time.Millisecond))
}

func TestProxiesAcknowledgeALogin(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	first := c.open(t, "_a")
	c.publish(t, first)
	e := newExchange(t, c)
	agents := e.proxies(t, 2)
	slow := agents[1].connect(t)
	tx, err := slow.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), insert)
	must(t, err)

	next := c.open(t, "_b")
	c.publish(t, next)
	e.AwaitReaders(e.claim, "one uses the new login, and one is still in a transaction of the old", func(logins map[string]string) bool {
		return maps.Equal(logins, map[string]string{"pod-0": next.User, "pod-1": first.User})
	})
	agents[1].awaitLogin(t, next.User) // new transactions; that one goes on
	must(t, tx.Commit(t.Context()))
	e.AwaitReaders(e.claim, "both use it", func(logins map[string]string) bool {
		return logins["pod-0"] == next.User && logins["pod-1"] == next.User
	})
	agents[0].signal(t, syscall.SIGTERM)
	if code := agents[0].exitCode(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	began := time.Now()
	e.AwaitReaders(e.claim, "one is gone", func(logins map[string]string) bool { return len(logins) == 1 })
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("a proxy that said it leaves counted for another %v", took)
	}
}

func TestClientsNoticeNoMoveOfAllProxies(t *testing.T) {
	c := newTenant(t, testkit.Postgres(t, 15))
	other := newTenantNamed(t, testkit.Postgres(t, 17), c.owner, c.database)
	targets := []postgres.Target{c.open(t, "_a"), other.open(t, "_b")}
	c.passwords = append(c.passwords, other.passwords...)
	c.publish(t, targets[0])
	e := newExchange(t, c)
	var loads []*load
	for _, a := range e.proxies(t, 2) {
		loads = append(loads, a.load(t, 4, 2))
	}
	const moves = 20
	var pauses []time.Duration
	places := []*tenant{c, other}
	for n := range moves {
		from, to := places[n%2], targets[1-n%2]
		op := e.hold(t, &to)
		began := time.Now()
		must(t, op.Pause(t.Context(), 2*time.Second))
		eventually(t, "nobody is on the server of before", func() bool {
			return from.server.Query(t, "", fmt.Sprintf("SELECT count(*) FROM pg_stat_activity WHERE datname = '%s'", from.database))[0] == "0"
		})
		before := rows(t, c, other)
		must(t, op.Retarget(t.Context()))
		if after := rows(t, c, other); after != before {
			t.Errorf("%d rows were written in the pause", after-before)
		}
		must(t, op.Resume(t.Context()))
		pauses = append(pauses, time.Since(began))
		<-time.After(100 * time.Millisecond)
	}
	e.AwaitReaders(e.claim, "all say where they are", func(logins map[string]string) bool {
		return logins["pod-0"] == targets[moves%2].User && logins["pod-1"] == targets[moves%2].User
	})
	checkLoads(t, loads, c, other)
	if n := rows(t, other); n == 0 {
		t.Error("nothing was ever written to the other server")
	}
	slices.Sort(pauses)
	t.Logf("pauses: median %v, longest %v", pauses[moves/2].Round(time.Millisecond), pauses[moves-1].Round(time.Millisecond))
}

// A server that knows the same logins needs no password on the way.
func TestAMoveKeepsTheLogin(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	other := newTenantNamed(t, testkit.Postgres(t, 17), c.owner, c.database)
	from := c.open(t, "_a")
	c.publish(t, from)
	to := other.openWith(t, "_a", from.Password)
	other.server.Exec(t, "", fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT 0", id(other.database)))
	to.User, to.Password = "", ""
	e := newExchange(t, c)
	a := e.proxies(t, 1)[0]
	op := e.hold(t, &to)
	must(t, op.Pause(t.Context(), 5*time.Second))
	must(t, op.Retarget(t.Context()))
	other.server.Exec(t, "", fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT -1", id(other.database)))
	must(t, op.Resume(t.Context()))
	if got := a.ask(t, "SELECT session_user || ' ' || current_setting('server_version_num')"); !strings.HasPrefix(got, from.User+" 17") {
		t.Errorf("it goes on as %s", got)
	}
}

// A place that a proxy cannot log in to is found before anybody waits.
func TestATargetIsTriedBeforeThePause(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	e := newExchange(t, c)
	a := e.proxies(t, 1)[0]
	nowhere := postgres.Target{Host: "127.0.0.1", Port: uint16(lowPort(t)), Database: c.database}
	_, err := e.Hold(t.Context(), e.order(&nowhere))
	if err == nil || !strings.Contains(err.Error(), "pod-0: trying the target") {
		t.Errorf("got %v", err)
	}
	if got := a.ask(t, "SELECT 1::text"); got != "1" {
		t.Errorf("it answers %s", got)
	}
}

// Whatever becomes of the controller, clients go on.
func TestABudgetEndsWithoutTheSwitchboard(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	other := newTenantNamed(t, testkit.Postgres(t, 17), c.owner, c.database)
	c.publish(t, c.open(t, "_a"))
	target := other.open(t, "_a")
	c.passwords = append(c.passwords, other.passwords...)
	for name, stage := range map[string]func(context.Context, *switchboard.Operation) error{
		"paused": func(context.Context, *switchboard.Operation) error { return nil },
		"moved":  func(ctx context.Context, op *switchboard.Operation) error { return op.Retarget(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newExchange(t, c)
			a := e.proxies(t, 1)[0]
			l := a.load(t, 2, 1)
			op := e.hold(t, &target)
			must(t, op.Pause(t.Context(), 1500*time.Millisecond))
			must(t, stage(t.Context(), op))
			e.Stop()
			began := time.Now()
			if got := a.ask(t, "SHOW server_version_num"); got[:2] != "15" {
				t.Errorf("it goes on at version %s, not where it was", got)
			}
			if waited := time.Since(began); waited < 500*time.Millisecond || waited > 4*time.Second {
				t.Errorf("clients waited for %v", waited)
			}
			checkLoads(t, []*load{l}, c)
		})
	}
}
