package migration_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// load is writers that go through the proxy and remember what was acknowledged.
type load struct {
	world *world
	stop  context.CancelFunc
	work  sync.WaitGroup

	mu      sync.Mutex
	acked   map[string]bool
	errors  []error
	longest time.Duration
}

const writers = 8

func (w *world) load() *load {
	ctx, stop := context.WithCancel(w.Context())
	l := &load{world: w, stop: stop, acked: map[string]bool{}}
	for i := range writers {
		l.work.Go(func() { l.write(ctx, i) })
	}
	w.Cleanup(func() { l.end() })
	return l
}

func (l *load) end() {
	l.stop()
	l.work.Wait()
}

// write runs transactions one after the other; an error that is not its end counts.
func (l *load) write(ctx context.Context, id int) {
	conn, err := l.world.proxy.client(context.WithoutCancel(ctx))
	if err != nil {
		l.fail(err)
		return
	}
	defer func() { _ = conn.Close(context.Background()) }()
	pause := time.NewTicker(4 * time.Millisecond)
	defer pause.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		uid := newUID()
		began := time.Now()
		err := transaction(context.WithoutCancel(ctx), conn, uid, id, n)
		took := time.Since(began)
		if err != nil {
			l.fail(err)
			return
		}
		l.mu.Lock()
		l.acked[uid] = true
		l.longest = max(l.longest, took)
		l.mu.Unlock()
		<-pause.C
	}
}

func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// transaction is one batch in the simple protocol, which every pooler takes.
func transaction(ctx context.Context, conn *pgx.Conn, uid string, id, n int) error {
	more := []string{
		fmt.Sprintf("INSERT INTO app.parts (day, v) VALUES (date '2026-01-01' + %d, 'x')", n%59),
		fmt.Sprintf("UPDATE other.big SET v = v || 'y' WHERE id = %d", n%50+1),
		fmt.Sprintf("DELETE FROM app.parts WHERE id IN (SELECT id FROM app.parts WHERE id %% %d = %d ORDER BY id LIMIT 2)", writers, id),
		fmt.Sprintf("SELECT nextval('other.s%d')", n%100+1),
	}[n%4]
	sql := fmt.Sprintf("BEGIN; INSERT INTO app.events (uid, body) VALUES ('%s', 'b'); UPDATE app.counters SET n = n + 1 WHERE id = %d; %s; COMMIT", uid, id+1, more)
	_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errors = append(l.errors, err)
}

// acknowledged is how many transactions were.
func (l *load) acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// restart forgets the longest transaction so far.
func (l *load) restart() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.longest = 0
}

func (l *load) worst() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.longest
}

// check ends the load and compares what was acknowledged with what a server has.
func (l *load) check(t *testing.T, target bool) {
	t.Helper()
	l.end()
	for _, err := range l.errors {
		t.Errorf("a client saw: %v", err)
	}
	have := map[string]int{}
	for _, uid := range l.world.servers[target].Query(t, database, "SELECT uid FROM app.events") {
		have[uid]++
	}
	lost, doubled := 0, 0
	for uid := range l.acked {
		switch have[uid] {
		case 0:
			lost++
		case 1:
		default:
			doubled++
		}
	}
	if lost+doubled > 0 || len(l.acked) == 0 {
		t.Errorf("of %d acknowledged transactions %d are lost and %d doubled", len(l.acked), lost, doubled)
	}
	if counted := l.world.servers[target].Query(t, database, "SELECT sum(n) FROM app.counters")[0]; counted != fmt.Sprint(len(have)) {
		t.Errorf("the counters say %s, the events are %d", counted, len(have))
	}
}
