package migration_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/migration"
	"github.com/berth-dev/berth/postgres/replication"
)

// pairs are the servers that a database is moved between.
var pairs = [][2]int{{15, 17}, {15, 18}}

// switchOver brings the clients over, trying again while the answer is not now.
func (w *world) switchOver(p replication.Pair, link int64) migration.Report {
	w.Helper()
	checker, err := replication.NewChecker(w.Context(), p)
	w.must(err)
	defer checker.Close()
	w.must(checker.Full(w.Context()))
	s := migration.Switch{Pair: p, Hold: w.proxy.hold, Checker: checker, Link: link}
	var report migration.Report
	for range 5 {
		if report, err = s.Run(w.Context()); err == nil {
			w.must(p.Reverse(w.Context(), link))
			return report
		}
		w.Logf("not now: %v %v", err, report.Phases)
	}
	w.Fatal(err)
	return report
}

func TestASwitchAndTheWayBackLoseNothing(t *testing.T) {
	for _, majors := range pairs {
		t.Run(fmt.Sprintf("%d to %d", majors[0], majors[1]), func(t *testing.T) {
			w := newWorld(t, majors[0], majors[1])
			load := w.load()
			w.eventually("writes go through", func() bool { return load.acknowledged() > 200 })
			w.copied()
			p := w.pair
			for link := int64(1); link <= 4; link++ {
				load.restart()
				report := w.switchOver(p, link)
				before := load.acknowledged()
				w.eventually("writes go on", func() bool { return load.acknowledged() > before+200 })
				t.Logf("switch %d: pause %s, longest transaction %s, %v", link, report.Pause.Round(time.Millisecond), load.worst().Round(time.Millisecond), report.Phases)
				p = p.Swapped()
			}
			load.check(t, false)
			w.sameContent()
			w.must(p.Finish(t.Context()))
			for target, s := range w.servers {
				if left := w.leftovers(target); len(left) > 0 {
					t.Errorf("on PostgreSQL %d is left: %v", s.Major, left)
				}
			}
		})
	}
}

// Sessions that bypass the proxy are cut, and what they were told is kept.
func TestWritersPastTheProxyLoseNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 15, 17)
	w.copied()
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]bool{}
	defer func() { stop(); work.Wait() }()
	for range 3 {
		work.Go(func() {
			pause := time.NewTicker(4 * time.Millisecond)
			defer pause.Stop()
			for ctx.Err() == nil {
				conn, err := testkit.Connect(context.WithoutCancel(ctx), w.direct(false))
				for err == nil && ctx.Err() == nil {
					uid := newUID()
					if _, err = conn.Exec(context.WithoutCancel(ctx), "INSERT INTO app.events (uid) VALUES ($1)", uid); err == nil {
						mu.Lock()
						acked[uid] = true
						mu.Unlock()
					}
					<-pause.C
				}
				if conn != nil {
					_ = conn.Close(context.Background())
				}
				if code := (*pgconn.PgError)(nil); errors.As(err, &code) && code.Code != "57P01" && code.Code != "53300" {
					t.Errorf("a writer saw %v", err)
				}
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	w.eventually("writes go through", func() bool { return count() > 500 })
	report := w.switchOver(w.pair, 1)
	stop()
	work.Wait()
	if report.Ended < 1 {
		t.Error("no session was ended")
	}
	kept := map[string]bool{}
	for _, uid := range w.servers[true].Query(t, database, "SELECT uid FROM app.events") {
		kept[uid] = true
	}
	for uid := range acked {
		if !kept[uid] {
			t.Errorf("a write that was acknowledged is lost, of %d", len(acked))
			break
		}
	}
	w.sameContent()
	t.Logf("%d acknowledged, %d sessions ended, pause %s", len(acked), report.Ended, report.Pause.Round(time.Millisecond))
}

// sameContent waits until the follower has everything, and compares.
func (w *world) sameContent() {
	w.Helper()
	const sql = `SELECT 'events', count(*), sum(hashtextextended(t::text, 0)) FROM app.events t UNION ALL SELECT 'counters', count(*), sum(hashtextextended(t::text, 0)) FROM app.counters t
		UNION ALL SELECT 'parts', count(*), sum(hashtextextended(t::text, 0)) FROM app.parts t UNION ALL SELECT 'big', count(*), sum(hashtextextended(t::text, 0)) FROM other.big t
		UNION ALL SELECT 'log', count(*), sum(hashtextextended(t::text, 0)) FROM other.log t ORDER BY 1`
	var diff string
	defer func() {
		if diff != "" {
			w.Log(diff)
		}
	}()
	w.eventually("both sides hold the same", func() bool {
		diff = cmp.Diff(w.servers[false].Query(w, database, sql), w.servers[true].Query(w, database, sql))
		return diff == ""
	})
}

func (w *world) leftovers(target bool) []string {
	w.Helper()
	return w.servers[target].Query(w, database, `SELECT 'slot ' || slot_name FROM pg_replication_slots UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname ~ '^berth'
		UNION ALL SELECT 'publication ' || pubname FROM pg_publication UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
		UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ '^berth' UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin`)
}
