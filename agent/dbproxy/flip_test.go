package dbproxy_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/internal/testkit"
)

// load is what a tenant's program does: long-lived clients, half of them in
// transactions, and some that connect anew each time.
type load struct {
	mu      sync.Mutex
	errs    []string
	written int
	longest time.Duration
	stop    context.CancelFunc
	done    sync.WaitGroup
}

func (a *agent) load(t testing.TB, long, reconnecting int) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel}
	for n := range long {
		l.done.Go(func() { l.long(ctx, a, n%2 == 0) })
	}
	for range reconnecting {
		l.done.Go(func() { l.reconnecting(ctx, a) })
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.stop()
	l.done.Wait()
}

// note counts one piece of work. What the end of the test cut off does not count.
func (l *load) note(ctx context.Context, began time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			l.errs = append(l.errs, err.Error())
		}
		return
	}
	l.written++
	l.longest = max(l.longest, time.Since(began))
}

const insert = "INSERT INTO app.events DEFAULT VALUES"

func (l *load) long(ctx context.Context, a *agent, transactions bool) {
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	var conn *pgx.Conn
	for ctx.Err() == nil {
		began := time.Now()
		var err error
		if conn == nil {
			if conn, err = testkit.Connect(ctx, a.target()); err != nil {
				l.note(ctx, began, err)
				continue
			}
		}
		if transactions {
			err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, insert); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, "SELECT count(*) FROM (SELECT FROM app.events LIMIT 10) e")
				return err
			})
		} else {
			_, err = conn.Exec(ctx, insert)
		}
		l.note(ctx, began, err)
		if conn.IsClosed() {
			conn = nil
		}
		<-pause.C
	}
	if conn != nil {
		_ = conn.Close(context.Background())
	}
}

func (l *load) reconnecting(ctx context.Context, a *agent) {
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	for ctx.Err() == nil {
		began := time.Now()
		conn, err := testkit.Connect(ctx, a.target())
		if err == nil {
			_, err = conn.Exec(ctx, insert)
			_ = conn.Close(context.Background())
		}
		l.note(ctx, began, err)
		<-pause.C
	}
}

// verdict ends the load, and fails on an error, a lost row, or a row that is
// not the owner role's.
func (l *load) verdict(t testing.TB, c *tenant) {
	t.Helper()
	l.end()
	if len(l.errs) > 0 {
		t.Errorf("%d client errors, such as: %s", len(l.errs), strings.Join(slices.Compact(l.errs[:min(5, len(l.errs))]), "; "))
	}
	if l.longest > 2*time.Second {
		t.Errorf("the longest stall was %v", l.longest)
	}
	got := c.server.Query(t, c.database, "SELECT count(*), count(DISTINCT by), min(by) FROM app.events")[0]
	rows, owners, _ := strings.Cut(got, "|")
	var n int
	_, err := fmt.Sscan(rows, &n)
	must(t, err)
	if n < l.written {
		t.Errorf("%d rows are there of %d that were acknowledged", n, l.written)
	}
	if owners != "1|"+c.owner {
		t.Errorf("rows were written as %q, want all as %s", owners, c.owner)
	}
	t.Logf("%d pieces of work, longest stall %v", l.written, l.longest.Round(time.Millisecond))
}

// rotate goes to the other slot and retires the one before, as the controller
// does; it returns how long the new login and the end of the old one took.
func (a *agent) rotate(t testing.TB, from, to string) (applied, retired time.Duration) {
	t.Helper()
	target := a.tenant.open(t, to)
	began := time.Now()
	a.tenant.publish(t, target)
	a.awaitLogin(t, target.User)
	applied = time.Since(began)
	eventually(t, "no session of the old login", func() bool { return a.tenant.sessions(t, from) == 0 })
	retired = time.Since(began)
	a.tenant.close(t, from)
	return applied, retired
}

func TestClientsNoticeNoRotation(t *testing.T) {
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t)
	l := a.load(t, 8, 4)
	const flips = 20
	var applied, retired []time.Duration
	slots := []string{"_a", "_b"}
	for n := range flips {
		in, out := a.rotate(t, slots[n%2], slots[1-n%2])
		applied, retired = append(applied, in), append(retired, out)
		<-time.After(200 * time.Millisecond)
	}
	l.verdict(t, c)
	eventually(t, "no copy of a password is left behind", func() bool {
		staged, err := filepath.Glob(filepath.Join(a.state, "pgbouncer", "*.staged"))
		must(t, err)
		return len(staged) == 0
	})
	slices.Sort(applied)
	slices.Sort(retired)
	t.Logf("new login after %v (median), %v (longest); no old login after %v, %v",
		applied[flips/2], applied[flips-1], retired[flips/2], retired[flips-1])
	if got := a.metric(`berth_dbproxy_flips_total{result="applied"}`); got != flips {
		t.Errorf("flips_total = %v, want %d", got, flips)
	}
	if applied[flips-1] > 2*time.Second {
		t.Errorf("a new login was in use after %v only", applied[flips-1])
	}
}

// The same login with another password: the way of servers that have one login.
func TestClientsNoticeNoPasswordChange(t *testing.T) {
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t)
	first := a.connect(t)
	before := one(t, first, "SELECT pg_backend_pid()::text")
	for n := range 5 {
		c.publish(t, c.open(t, "_a"))
		eventually(t, "the change is applied", func() bool {
			return a.metric(`berth_dbproxy_flips_total{result="applied"}`) == float64(n+1)
		})
		if got := a.ask(t, "SELECT session_user::text"); got != c.owner+"_a" {
			t.Fatalf("session_user = %s", got)
		}
	}
	if after := one(t, first, "SELECT pg_backend_pid()::text"); after == before {
		t.Error("a connection made with the old password is still in use")
	}
}

func TestAnOpenTransactionEndsOnItsLogin(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t)
	conn := a.connect(t)
	tx, err := conn.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), insert)
	must(t, err)

	target := c.open(t, "_b")
	c.publish(t, target)
	a.awaitLogin(t, target.User)
	if got := a.ask(t, "SELECT session_user::text"); got != c.owner+"_b" {
		t.Errorf("a new transaction runs as %s", got)
	}
	var user string
	must(t, tx.QueryRow(t.Context(), "SELECT session_user::text").Scan(&user))
	if user != c.owner+"_a" {
		t.Errorf("the open transaction runs as %s", user)
	}
	must(t, tx.Commit(t.Context()))
	if got := one(t, conn, "SELECT session_user::text"); got != c.owner+"_b" {
		t.Errorf("the next transaction runs as %s", got)
	}
	eventually(t, "no session of the old login", func() bool { return c.sessions(t, "_a") == 0 })
}

// Past the limit the proxy ends its own transaction on the old login, and
// nobody else's.
func TestAStragglerIsEnded(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	first := c.open(t, "_a")
	c.publish(t, first)
	a := c.ready(t, "--old-login-limit", "300ms")
	elsewhere, err := testkit.Connect(t.Context(), first)
	must(t, err)
	defer func() { _ = elsewhere.Close(t.Context()) }()
	straggler, other := a.connect(t), a.connect(t)
	tx, err := straggler.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), insert)
	must(t, err)

	target := c.open(t, "_b")
	c.publish(t, target)
	a.awaitLogin(t, target.User)
	eventually(t, "only the session that is not the proxy's is left", func() bool { return c.sessions(t, "_a") == 1 })
	if _, err := tx.Exec(t.Context(), insert); err == nil {
		t.Error("the straggler goes on")
	}
	if got := one(t, other, "SELECT session_user::text"); got != c.owner+"_b" {
		t.Errorf("another client runs as %s", got)
	}
	if got := one(t, elsewhere, "SELECT session_user::text"); got != c.owner+"_a" {
		t.Errorf("the session of another proxy runs as %s", got)
	}
}

// Session pooling: a client stays on the login it began with, new ones get the new.
func TestSessionPoolingLeavesSessionsAlone(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t, "--pool", "session", "--old-login-limit", "50ms")
	stays := a.connect(t)
	_, err := stays.Exec(t.Context(), "CREATE TEMP TABLE kept AS SELECT 1 AS n")
	must(t, err)
	target := c.open(t, "_b")
	c.publish(t, target)
	a.awaitLogin(t, target.User)
	if got := a.ask(t, "SELECT session_user::text"); got != c.owner+"_b" {
		t.Errorf("a new session runs as %s", got)
	}
	if got := one(t, stays, "SELECT session_user || ' ' || n FROM kept, pg_sleep(0.5)"); got != c.owner+"_a 1" {
		t.Errorf("the old session runs as %s", got)
	}
	must(t, stays.Close(t.Context()))
	eventually(t, "no session of the old login", func() bool { return c.sessions(t, "_a") == 0 })
}

// What a client sets does not reach the next one, and the owner role stays.
func TestNoSessionStateLeaks(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t, "--pool-size", "1")
	for _, sql := range []string{"SET ROLE NONE", "SET search_path = nowhere", "SET statement_timeout = '1ms'"} {
		conn := a.connect(t)
		_, err := conn.Exec(t.Context(), sql)
		must(t, err)
		if got := a.ask(t, "SELECT current_user || ' ' || current_setting('search_path') || ' ' || current_setting('statement_timeout')"); got != c.owner+` "$user", public 0` {
			t.Errorf("after %s the next client has %s", sql, got)
		}
	}
}

// Another server: the tenant's data moved, and its Secret says where.
func TestClientsFollowToAnotherServer(t *testing.T) {
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	moved := newTenantNamed(t, testkit.Postgres(t, 17), c.owner, c.database+"_moved")
	a := c.ready(t)
	stays := a.connect(t)
	if got := one(t, stays, "SHOW server_version_num"); got[:2] != "15" {
		t.Fatalf("version %s", got)
	}
	target := moved.open(t, "_a")
	c.passwords = append(c.passwords, moved.passwords...)
	c.publish(t, target)
	eventually(t, "the same connection is on the other server", func() bool {
		return one(t, stays, "SHOW server_version_num")[:2] == "17"
	})
	if got := one(t, stays, "SELECT current_database()"); got != moved.database {
		t.Errorf("database = %s", got)
	}
}
