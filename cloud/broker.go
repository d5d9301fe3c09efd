// Package cloud hands out short-lived cloud credentials of roles. A Broker asks
// the security token service as seldom as it may, never hands out what would
// soon expire, knows who holds what until when, and can take back what was
// issued before a moment. It stores nothing outside of its memory.
package cloud

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"k8s.io/utils/clock"
)

// Bounds of a session: shorter ones the service refuses, and so it does longer
// ones when the broker's own credentials are of a role.
const (
	MinDuration = 15 * time.Minute
	MaxDuration = time.Hour
	// runway is what a cached credential has beyond the lookahead, so that a
	// refresh that begins at the lookahead gets a new one.
	runway = 5 * time.Minute
	// callTimeout bounds one call; nobody's impatience ends it for the others.
	callTimeout = time.Minute
)

// Credentials are temporary keys. Printing them shows no secret.
type Credentials struct {
	AccessKeyID, SecretAccessKey, SessionToken string
	Issued, Expires                            time.Time
}

// LogValue is what a log may know.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

func (c Credentials) String() string {
	return c.AccessKeyID + " until " + c.Expires.UTC().Format(time.RFC3339)
}

// GoString is String, so that no verb prints more.
func (c Credentials) GoString() string { return c.String() }

// Role is what credentials are of. A policy, as JSON, narrows what they may.
type Role struct{ ARN, Policy string }

// Request is one AssumeRole.
type Request struct {
	Role
	Session  string
	Duration time.Duration
}

// Options of a Broker.
type Options struct {
	// Assume calls the service. Its errors hold no secret.
	Assume   func(context.Context, Request) (Credentials, error)
	Session  string        // name of every session; empty is berth
	Duration time.Duration // put between MinDuration and MaxDuration; 0 is MaxDuration
	Clock    clock.PassiveClock
}

// Broker is safe for concurrent use.
type Broker struct {
	assume    func(context.Context, Request) (Credentials, error)
	session   string
	duration  time.Duration
	clock     clock.PassiveClock
	underway  singleflight.Group
	mu        sync.Mutex
	cached    map[Role]Credentials
	revoked   map[string]revocation // by ARN
	grants    map[grantKey]Grant
	lastSwept time.Time
}

type revocation struct {
	before time.Time
	epoch  int // parts calls that began before it from those after
}

// New is a broker that has handed out nothing yet.
func New(o Options) *Broker {
	if o.Duration == 0 {
		o.Duration = MaxDuration
	}
	if o.Session == "" {
		o.Session = "berth"
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	return &Broker{
		assume: o.Assume, session: o.Session, duration: min(max(o.Duration, MinDuration), MaxDuration), clock: o.Clock,
		cached: map[Role]Credentials{}, revoked: map[string]revocation{}, grants: map[grantKey]Grant{},
	}
}

// Lookahead is how long before the end a holder should come back. Every
// credential that is handed out lives longer than that.
func (b *Broker) Lookahead() time.Duration { return b.duration / 2 }

// ErrShortLived is returned for credentials that would end within the
// lookahead as soon as they were issued: a clock is wrong.
var ErrShortLived = errors.New("the credentials that were issued end too soon; compare the clocks of this machine and of the service")

// Get hands holder credentials of role that live longer than Lookahead, from
// the cache if it has such. Callers of one role share one call; an error is
// everybody's who waited for it, and nobody's after them.
func (b *Broker) Get(ctx context.Context, role Role, holder string) (Credentials, error) {
	for {
		b.mu.Lock()
		epoch := b.revoked[role.ARN].epoch
		if c, ok := b.cached[role]; ok && b.left(c) > b.Lookahead()+runway {
			b.note(role.ARN, holder, c)
			b.mu.Unlock()
			handouts.WithLabelValues("cache").Inc()
			return c, nil
		}
		b.mu.Unlock()
		answer := b.underway.DoChan(fmt.Sprint(epoch, " ", role.ARN, " ", role.Policy), func() (any, error) { return b.call(role) })
		select {
		case <-ctx.Done():
			return Credentials{}, fmt.Errorf("waiting for credentials of %s: %w", role.ARN, ctx.Err())
		case result := <-answer:
			if result.Err != nil {
				return Credentials{}, result.Err
			}
			if c := result.Val.(Credentials); b.keep(role, holder, epoch, c) {
				handouts.WithLabelValues("service").Inc()
				return c, nil
			} // revoked while it was on its way: the next one is newer
		}
	}
}

// call is detached from whoever asked first: others wait for it too.
func (b *Broker) call(role Role) (Credentials, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	began := b.clock.Now()
	c, err := b.assume(ctx, Request{Role: role, Session: b.session, Duration: b.duration})
	if err != nil {
		calls.WithLabelValues("error").Inc()
		return Credentials{}, fmt.Errorf("assuming role %s: %w", role.ARN, err)
	}
	c.Issued = began // the earliest it can have been
	switch {
	case c.AccessKeyID == "" || c.SecretAccessKey == "":
		calls.WithLabelValues("empty").Inc()
		return Credentials{}, fmt.Errorf("assuming role %s: the answer has no credentials", role.ARN)
	case b.left(c) <= b.Lookahead():
		calls.WithLabelValues("short").Inc()
		return Credentials{}, fmt.Errorf("assuming role %s: %w", role.ARN, ErrShortLived)
	}
	calls.WithLabelValues("ok").Inc()
	return c, nil
}

// keep caches c and notes who has it, unless it was revoked on its way or got
// old while it was waited for.
func (b *Broker) keep(role Role, holder string, epoch int, c Credentials) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.revoked[role.ARN].epoch != epoch || b.left(c) <= b.Lookahead() {
		return false
	}
	b.cached[role] = c
	b.note(role.ARN, holder, c)
	return true
}

func (b *Broker) left(c Credentials) time.Duration { return c.Expires.Sub(b.clock.Now()) }
