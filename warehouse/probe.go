package warehouse

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/step"
)

const (
	probeTimeout   = 8 * time.Second
	connectTimeout = 5 * time.Second
	// probesAtOnce bounds logins that are underway. Steps never wait for one, so
	// those that hang hold only each other up.
	probesAtOnce = 64
)

// login proves the path that workers use, before anybody is told that the
// warehouse is ready: what the cloud calls available may lack its DNS name.
func (w *Worker) login(_ context.Context, s *scope) step.Outcome {
	fault, known, left := w.prober.look(s.UID, s.Name, *s.seen.Login, s.budget)
	switch {
	case !known:
		return s.unready("Probing", "Infrastructure is up; trying a login.")
	case fault != nil:
		return s.unready("LoginFailed", "Infrastructure is up, but a login fails: %s.", fault.Reason).Again(left)
	}
	if s.Status.ReadyAt == nil {
		s.Status.ReadyAt = &metav1.Time{Time: s.now}
	}
	s.Status.FailedAt = nil
	return step.Done().Again(left)
}

// prober logs in aside and remembers how it went.
type prober struct {
	clock clock.PassiveClock
	wake  func(org string)
	seed  maphash.Seed
	slots chan struct{}

	mu      sync.Mutex
	results map[types.UID]*probed
}

type probed struct {
	of             uint64
	at             time.Time
	known, running bool
	fault          *postgres.Fault
}

func newProber(c clock.PassiveClock, wake func(string)) *prober {
	return &prober{clock: c, wake: wake, seed: maphash.MakeSeed(), slots: make(chan struct{}, probesAtOnce), results: map[types.UID]*probed{}}
}

// look tells how the last login by target went and for how long that counts. If
// that is over, another begins, and wakes org when it has ended.
func (p *prober) look(id types.UID, org string, target postgres.Target, budget Budget) (fault *postgres.Fault, known bool, left time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := maphash.Comparable(p.seed, [...]string{target.Address(), target.User, target.Password, target.Database, target.SSLMode})
	r := p.results[id]
	if r == nil || r.of != of {
		r = &probed{of: of}
		p.results[id] = r
	}
	lasts := budget.Verified
	if r.fault != nil {
		lasts = budget.Retry
	}
	left = lasts - p.clock.Now().Sub(r.at)
	if !r.running && (!r.known || left <= 0) {
		r.running = true
		go p.run(r, org, target)
	}
	return r.fault, r.known, max(left, budget.Retry)
}

func (p *prober) run(result *probed, org string, target postgres.Target) {
	p.slots <- struct{}{}
	fault := tryLogin(target)
	<-p.slots
	p.mu.Lock()
	result.at, result.known, result.running, result.fault = p.clock.Now(), true, false, fault
	p.mu.Unlock()
	p.wake(org)
}

func (p *prober) forget(id types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.results, id)
}

// tryLogin says what keeps a login from working, or nil.
func tryLogin(target postgres.Target) *postgres.Fault {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	err := func() error {
		config, err := target.ConnConfig()
		if err != nil {
			return err
		}
		config.ConnectTimeout = connectTimeout
		config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // a pooler may change servers
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }() // the answer is in; what follows tells nothing
		_, err = conn.Exec(ctx, "SELECT 1")
		return err
	}()
	if err == nil {
		return nil
	}
	fault := postgres.Explain(err)
	return &fault
}
