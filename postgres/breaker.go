package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	firstBackoff = time.Second
	maxBackoff   = 30 * time.Second
	// trusted is how long a good answer stands for the server being well.
	trusted = time.Second
	// patience is how long others wait, at least, for somebody's contact.
	patience = 250 * time.Millisecond
	// firstPatience is that while nobody knows yet how long a good one takes: a
	// process that has just started must not take a busy server for a dead one.
	firstPatience = time.Second
)

var errNoAnswerYet = errors.New("no answer yet")

// breaker lets one goroutine at a time find out whether a server answers, and
// gives the others the last failure at once. The zero value is ready.
type breaker struct {
	mu       sync.Mutex
	failure  error // of the last contact; nil after a good one
	failures int
	until    time.Time     // no contact before
	good     time.Time     // last good answer
	slowest  time.Duration // good contact so far: a far server is not a dead one
	since    time.Time     // start of the contact under way; zero: none
	ended    chan struct{} // closed when that contact ends
}

// fresh reports that the server has answered within the last second.
func (b *breaker) fresh() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failure == nil && time.Since(b.good) < trusted
}

// refused is the cached failure while no contact may be tried.
func (b *breaker) refused() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failure != nil && (time.Now().Before(b.until) || !b.since.IsZero()) {
		return b.failure
	}
	return nil
}

// enter returns nil when the caller may contact the server; it then has to
// call leave. It waits for another's contact only as long as a good one takes.
func (b *breaker) enter(ctx context.Context) error {
	for {
		if err := b.refused(); err != nil {
			return err
		}
		b.mu.Lock()
		if b.since.IsZero() {
			b.since, b.ended = time.Now(), make(chan struct{})
			b.mu.Unlock()
			return nil
		}
		left, ended := b.patience()-time.Since(b.since), b.ended
		b.mu.Unlock()
		if left <= 0 {
			return errNoAnswerYet
		}
		timer := time.NewTimer(left)
		select {
		case <-ended:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		timer.Stop()
	}
}

// patience is how long to wait for another's contact. The caller has the lock.
func (b *breaker) patience() time.Duration {
	if b.slowest == 0 {
		return firstPatience
	}
	return max(patience, 2*b.slowest)
}

// leave ends a contact. A failure opens the breaker, but not when the caller
// gave up, or when the server only had no connection left.
func (b *breaker) leave(caller context.Context, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	took := time.Since(b.since)
	b.since = time.Time{}
	close(b.ended)
	var answer *pgconn.PgError
	switch {
	case err == nil:
		b.failure, b.failures, b.good, b.slowest = nil, 0, time.Now(), max(b.slowest, took)
	case caller.Err() != nil, errors.As(err, &answer) && answer.Code == "53300":
	default:
		wait := min(firstBackoff<<min(b.failures, 5), maxBackoff)
		b.failures++
		b.failure = err
		b.until = time.Now().Add(wait - time.Duration(rand.Int64N(int64(wait)/5)))
	}
}

// answered notes a good answer outside a contact.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failure == nil {
		b.good = time.Now()
	}
}

// doubt makes the next caller contact the server before anything else.
func (b *breaker) doubt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.good = time.Time{}
}
