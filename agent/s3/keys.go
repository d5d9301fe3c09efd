// Package s3 signs and sends S3 requests with credentials that expire.
//
// It speaks what a restore needs, with the standard library alone: Signature
// Version 4, streamed chunks, and reading objects. It writes nothing, and
// keeps no secret on disk or in an error.
package s3

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Keys are credentials of one session, and what came with them. Printing them
// shows no secret.
type Keys struct {
	AccessKeyID, SecretAccessKey, SessionToken string

	Expires            time.Time // zero: they do not expire
	RepositoryPassword string    // of the backup repository; empty when its source does not know it
}

// String names the access key alone.
func (k Keys) String() string { return "keys of " + k.AccessKeyID }

// GoString is String.
func (k Keys) GoString() string { return k.String() }

// Source gets new keys. Its error says whether a later try may help: see Denied.
type Source func(context.Context) (Keys, error)

// Fixed is a source of keys that never change.
func Fixed(k Keys) Source {
	return func(context.Context) (Keys, error) { return k, nil }
}

// EarlyBy is how long before their expiry keys are renewed.
const EarlyBy = 2 * time.Minute

// Lease holds the keys that are current, and renews them early. Any number of
// callers that need new ones at the same time cause one call of the source.
type Lease struct {
	source Source
	now    func() time.Time
	flight singleflight.Group

	mu   sync.Mutex
	held Held
}

// Held are keys, and how many were held before them.
type Held struct {
	Keys
	Generation uint64 // zero: none yet
}

// NewLease holds nothing yet: the first use asks source.
func NewLease(source Source) *Lease { return &Lease{source: source, now: time.Now} }

// ErrNoKeys is in the chain when there is no usable key.
var ErrNoKeys = errors.New("no credentials")

// Current gives keys that have not expired. While a renewal fails, those that
// are still good go on.
func (l *Lease) Current(ctx context.Context) (Held, error) {
	l.mu.Lock()
	held := l.held
	l.mu.Unlock()
	if held.Generation > 0 && !l.due(held, EarlyBy) {
		return held, nil
	}
	newer, err := l.after(ctx, held.Generation)
	if err != nil && held.Generation > 0 && !l.due(held, 0) {
		return held, nil
	}
	return newer, err
}

// After gives keys newer than those of generation, which the server refused.
func (l *Lease) After(ctx context.Context, generation uint64) (Held, error) {
	return l.after(ctx, generation)
}

func (l *Lease) due(h Held, early time.Duration) bool {
	return !h.Expires.IsZero() && !h.Expires.After(l.now().Add(early))
}

func (l *Lease) after(ctx context.Context, generation uint64) (Held, error) {
	// The call outlives the caller that began it: others wait for it too.
	shared := context.WithoutCancel(ctx)
	done := l.flight.DoChan("keys", func() (any, error) {
		l.mu.Lock()
		held := l.held
		l.mu.Unlock()
		if held.Generation > generation {
			return held, nil
		}
		keys, err := l.source(shared)
		if err != nil {
			return Held{}, fmt.Errorf("%w: %w", ErrNoKeys, err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.held = Held{Keys: keys, Generation: held.Generation + 1}
		return l.held, nil
	})
	select {
	case <-ctx.Done():
		return Held{}, ctx.Err()
	case r := <-done:
		held, _ := r.Val.(Held)
		return held, r.Err
	}
}
