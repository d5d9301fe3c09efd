package migration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/migration"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/postgres/replication"
	"github.com/berth-dev/berth/process"
)

// direct is the tenant past the proxy.
func (w *world) direct(target bool) postgres.Target {
	t := w.servers[target].Target()
	t.User, t.Password, t.Database = login, password, database
	return t
}

// serves reports whether a tenant can write on a server.
func (w *world) serves(target bool) bool {
	ctx, cancel := context.WithTimeout(w.Context(), time.Second)
	defer cancel()
	conn, err := testkit.Connect(ctx, w.direct(target))
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, "UPDATE app.counters SET n = n WHERE id = 50")
	return err == nil
}

// oneServes checks that exactly this side does.
func (w *world) oneServes(target bool) {
	w.Helper()
	if !w.serves(target) || w.serves(!target) {
		w.Fatalf("the source serves: %t, the target serves: %t", w.serves(false), w.serves(true))
	}
}

func (w *world) newSwitch(p replication.Pair, link int64) migration.Switch {
	w.Helper()
	checker, err := replication.NewChecker(w.Context(), p)
	w.must(err)
	w.Cleanup(checker.Close)
	w.must(checker.Full(w.Context()))
	return migration.Switch{Pair: p, Hold: w.proxy.hold, Checker: checker, Link: link}
}

// onceFenced runs f as soon as the source is closed.
func (w *world) onceFenced(f func()) (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		w.eventually("the source is fenced", func() bool {
			return w.servers[false].Query(w, "", "SELECT datconnlimit FROM pg_database WHERE datname = 'app'")[0] == "0"
		})
		f()
	}()
	return done
}

// disturbed proxies have something happen right before the source is fenced.
type disturbed struct {
	migration.Held
	disturb func()
}

func (d disturbed) Pause(ctx context.Context, budget time.Duration) error {
	d.disturb()
	return d.Held.Pause(ctx, budget)
}

func (w *world) disturbed(disturb func()) migration.Hold {
	return func(ctx context.Context, to postgres.Target) (migration.Held, error) {
		held, err := w.proxy.hold(ctx, to)
		return disturbed{held, disturb}, err
	}
}

const (
	stopApplying  = "ALTER SUBSCRIPTION berth_m_switch_1 DISABLE"
	startApplying = "ALTER SUBSCRIPTION berth_m_switch_1 ENABLE"
)

func TestASwitchThatCannotHappenGivesTheSourceBack(t *testing.T) {
	w := newWorld(t, 15, 17)
	load := w.load()
	w.eventually("writes go through", func() bool { return load.acknowledged() > 100 })
	w.copied()
	target := w.servers[true]
	var client *pgx.Conn
	for name, tc := range map[string]struct{ before, inPause, after func() }{
		"a client keeps a transaction open": {inPause: func() {
			var err error
			client, err = w.proxy.client(t.Context())
			w.must(err)
			_, err = client.PgConn().Exec(t.Context(), "BEGIN; SELECT count(*) FROM app.counters").ReadAll()
			w.must(err)
		}, after: func() {
			if client != nil { // the switch did not get that far
				_ = client.Close(context.Background())
			}
		}},
		"the target stops to apply": {inPause: func() { target.Exec(t, database, stopApplying) }, after: func() { target.Exec(t, database, startApplying) }},
		"the target is killed":      {inPause: func() { target.Kill(t) }, after: func() { target.Start(t) }},
		"a large object was made": {
			before: func() { w.servers[false].Exec(t, database, "SELECT lo_create(4711)") },
			after:  func() { w.servers[false].Exec(t, database, "SELECT lo_unlink(4711)") },
		},
		"a row differs": {
			before: func() { target.Exec(t, database, "UPDATE other.log SET what = 'changed' WHERE id = 1") },
			after:  func() { target.Exec(t, database, "UPDATE other.log SET what = 'INSERT' WHERE id = 1") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := *w
			w.T = t
			load.restart()
			if tc.before != nil {
				tc.before()
			}
			s := w.newSwitch(w.pair, 1)
			if tc.inPause != nil {
				s.Hold = w.disturbed(tc.inPause)
			}
			report, err := s.Run(t.Context())
			tc.after()
			if !errors.Is(err, migration.ErrNotNow) {
				t.Fatalf("the switch said %v", err)
			}
			w.eventually("the source serves", func() bool { return w.serves(false) })
			before := load.acknowledged()
			w.eventually("writes go on", func() bool { return load.acknowledged() > before+50 })
			if worst := load.worst(); worst > time.Second {
				t.Errorf("the longest transaction took %s", worst)
			}
			t.Logf("%v: pause %s, longest transaction %s", err, report.Pause.Round(time.Millisecond), load.worst().Round(time.Millisecond))
		})
	}
	w.switchOver(w.pair, 1)
	w.oneServes(true)
	before := load.acknowledged()
	w.eventually("writes go on", func() bool { return load.acknowledged() > before+50 })
	load.check(t, true)
	w.sameContent()
}

// A controller that was frozen in the pause must not decide by what it knew.
func TestAFrozenControllerIsTooLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, 17)
	w.copied()
	s := w.newSwitch(w.pair, 1)
	s.Budget = 10 * time.Second
	s.Hold = w.disturbed(func() { w.servers[true].Exec(t, database, stopApplying) })
	var closed time.Duration
	done := w.onceFenced(func() {
		began := time.Now()
		w.eventually("the server gives the source back", func() bool { return w.serves(false) })
		closed = time.Since(began)
		w.servers[true].Exec(t, database, startApplying)
	})
	_, err := s.Run(t.Context())
	<-done
	if !errors.Is(err, migration.ErrNotNow) {
		t.Errorf("the switch said: %v", err)
	}
	w.oneServes(false)
	if closed > 2*time.Second {
		t.Errorf("the source was closed for %s", closed)
	}
	t.Logf("the source was closed for %s: %v", closed, err)
}

// A child that is killed stands for the controller.
const childEnv = "BERTH_TEST_SWITCH"

// stuck are proxies that stop at a point, and say so.
type stuck struct {
	At   string
	Pair replication.Pair
}

func (s stuck) reach(point string) error {
	if s.At == point {
		fmt.Println("reached")
		select {}
	}
	return nil
}

func (s stuck) hold(context.Context, postgres.Target) (migration.Held, error) {
	return s, s.reach("hold")
}
func (s stuck) Retarget(context.Context) error { return s.reach("retarget") }
func (s stuck) Resume(context.Context) error   { return s.reach("resume") }
func (s stuck) Abort(context.Context)          {}

func (s stuck) Pause(ctx context.Context, _ time.Duration) error {
	if s.At != "catch-up" {
		return s.reach("pause")
	}
	conn, err := s.Pair.To.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, stopApplying)
	fmt.Println("reached")
	return err
}

type order struct {
	From, To postgres.Target
	Name, At string
}

// child switches until it is stuck; it has no proxy of its own.
func child(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	p := replication.Pair{Name: o.Name, From: replication.Side{Admin: o.From}, To: replication.Side{Admin: o.To},
		NewSecret: func() (string, string) { return "child", "child" }}
	checker, err := replication.NewChecker(context.Background(), p)
	if err != nil {
		return err
	}
	if err := checker.Full(context.Background()); err != nil {
		return err
	}
	_, err = migration.Switch{Pair: p, Hold: stuck{o.At, p}.hold, Checker: checker, Link: 1, Budget: 10 * time.Second}.Run(context.Background())
	return err
}

func TestAKilledControllerLeavesOneSideServing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		at    string
		moved bool
	}{
		"before the pause":               {"hold", false},
		"in the pause, before the fence": {"pause", false},
		"fenced, while catching up":      {"catch-up", false},
		"fenced, before the decision":    {"retarget", false},
		"after the decision":             {"resume", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 15, 17)
			w.copied()
			text, err := json.Marshal(order{w.pair.From.Admin, w.pair.To.Admin, w.pair.Name, tc.at})
			w.must(err)
			said := &buffer{}
			self, err := os.Executable()
			w.must(err)
			p, err := process.Start(process.Spec{Path: self, Env: append(os.Environ(), childEnv+"="+string(text)), Log: said})
			w.must(err)
			w.eventually("the child is there", func() bool { return strings.Contains(said.String(), "reached") })
			if tc.at == "catch-up" {
				<-w.onceFenced(func() {})
			}
			w.must(p.Stop(0))
			died := time.Now()
			if !tc.moved {
				w.eventually("the source serves", func() bool { return w.serves(false) })
				if took := time.Since(died); took > 2*time.Second {
					t.Errorf("the source was closed for %s after the controller's death", took)
				}
			}
			settled, err := migration.Settle(t.Context(), w.pair)
			w.must(err)
			if settled.Moved != tc.moved {
				t.Errorf("moved is %t", settled.Moved)
			}
			w.oneServes(tc.moved)
			again, err := migration.Settle(t.Context(), w.pair)
			w.must(err)
			if again.Change || again.Moved != tc.moved {
				t.Errorf("a second look still finds something: %+v", again)
			}
			if tc.moved {
				w.servers[true].Exec(t, database, "UPDATE app.counters SET n = 77 WHERE id = 7")
				w.sameContent()
				return
			}
			w.servers[true].Exec(t, database, startApplying)
			w.switchOver(w.pair, 1)
			w.oneServes(true)
		})
	}
}
