package replication_test

import (
	"errors"
	"testing"
	"time"

	"github.com/berth-dev/berth/postgres/replication"
)

// fenced is a source that was just closed.
func (w *world) fenced(attempt int64, hold time.Duration) *replication.Fence {
	w.Helper()
	f, err := replication.PrepareFence(w.Context(), w.pair.From, w.pair.Name, attempt)
	w.must(err)
	w.Cleanup(f.End)
	w.must(f.Set(w.Context(), hold))
	if !w.closed() {
		w.Fatal("the fence is not set")
	}
	return f
}

func (w *world) closed() bool {
	return w.from.Query(w, "", "SELECT datconnlimit FROM pg_database WHERE datname = 'app db'")[0] == "0"
}

func TestTheGuardOpensTheDatabaseByItself(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		hold          time.Duration
		before, after string
	}{
		"when its time is over":  {hold: 300 * time.Millisecond},
		"at once when cancelled": {hold: time.Hour, after: "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DO $guard$%' AND pid <> pg_backend_pid()"},
		"although a limit is set": {
			hold: 300 * time.Millisecond, before: `ALTER DATABASE "app db" SET statement_timeout = '50ms'; ALTER DATABASE "app db" SET client_connection_check_interval = '10ms'`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 15, 17)
			w.must(w.pair.Begin(t.Context(), replication.Options{}))
			w.from.Exec(t, "", tc.before)
			f := w.fenced(1, tc.hold)
			w.from.Exec(t, "", tc.after)
			w.eventually("the database is open", func() bool { return !w.closed() })
			if err := f.Leave(t.Context()); !errors.Is(err, replication.ErrReturned) {
				t.Errorf("a decision after that: %v", err)
			}
		})
	}
}

func TestADecisionIsMadeOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, 18)
	w.must(w.pair.Begin(t.Context(), replication.Options{}))
	f := w.fenced(1, time.Hour)
	w.must(f.Return(t.Context()))
	if w.closed() {
		t.Error("what was given back is closed")
	}
	if err := f.Leave(t.Context()); !errors.Is(err, replication.ErrReturned) {
		t.Errorf("left after it was given back: %v", err)
	}
	again, err := replication.PrepareFence(t.Context(), w.pair.From, w.pair.Name, 1)
	w.must(err)
	defer again.End()
	if err := again.Set(t.Context(), time.Second); err == nil {
		t.Error("an attempt of the same number set the fence")
	}
	next := w.fenced(2, time.Hour)
	w.must(next.Leave(t.Context()))
	w.must(next.Return(t.Context()))
	if !w.closed() {
		t.Error("what was left is open")
	}
}

func TestServing(t *testing.T) {
	t.Parallel()
	side := func(outcome string, attempt int64) replication.Standing {
		return replication.Standing{Exists: true, Outcome: outcome, Attempt: attempt}
	}
	for name, tc := range map[string]struct {
		a, b  replication.Standing
		moved bool
	}{
		"nobody was left: the source":                      {side("", 0), side("", 0), false},
		"in a pause: the source":                           {side("open", 1), side("", 0), false},
		"the source was left: the target":                  {side("moved", 1), side("", 0), true},
		"in the pause of the way back: the target":         {side("moved", 1), side("open", 2), true},
		"the target was left last: the source":             {side("moved", 1), side("moved", 2), false},
		"and again the source: the target":                 {side("moved", 3), side("moved", 2), true},
		"the source was opened after the way back: it":     {side("", 1), side("moved", 2), false},
		"there is no target yet: the source":               {side("", 0), replication.Standing{}, false},
		"an attempt that was given back changes nothing":   {side("returned", 5), side("", 0), false},
		"nor one on the target, after the source was left": {side("moved", 1), side("returned", 4), true},
	} {
		if got := replication.Serving(tc.a, tc.b); got != tc.moved {
			t.Errorf("%s, but moved is %t", name, got)
		}
	}
}
