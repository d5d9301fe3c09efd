package switchboard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/switchboard/wire"
)

const (
	// margin is what proxies get beyond the budget: none of them gives up
	// while the switchboard still counts on it.
	margin = 200 * time.Millisecond
	// settle bounds the wait for proxies that are told the end.
	settle = 2 * time.Second
	// followTime is how long stragglers are sent after the others: longer than
	// a kubelet takes to show a new Secret.
	followTime = 10 * time.Minute
)

// Why an operation is over before its time.
var (
	// ErrStale means that a generation as high as this one was seen before.
	ErrStale = errors.New("the generation is not higher than the last one")
	// ErrAborted means that Abort was called.
	ErrAborted = errors.New("the operation was aborted")

	errSuperseded = errors.New("an operation of a higher generation has begun")
	errFinished   = errors.New("the operation is over")
)

// Order says what an operation is about.
type Order struct {
	// Generation is higher than that of any operation on these claims before.
	Generation uint64
	Claims     []Claim
	// Targets are where proxies are moved, by claim; one without a user keeps
	// each proxy's login. Each proxy tries its own
	// before anything is held, and the operation fails if it cannot log in
	// there; a refusal by CONNECTION LIMIT counts as a login. Empty for an
	// operation that moves nobody.
	Targets map[Claim]postgres.Target
	// Budget bounds the time from Hold to the call of Pause.
	Budget time.Duration
}

// Operation is one hold, pause and resume of all proxies of its claims. When
// any method returns an error but that of Resume, it is over: all proxies go on
// with the server of before.
type Operation struct {
	board *Board
	order Order
	ctx   context.Context
	stop  context.CancelCauseFunc

	// Of the board's lock.
	stage    wire.Verb
	members  map[string]*member // by pod uid
	deadline time.Time
	timer    *time.Timer
	moved    bool
	wake     chan struct{} // closed at each change, and replaced
}

// Hold begins an operation: every proxy serves on, but changes nothing by
// itself and has no login in flight. A lower or equal generation is ErrStale.
func (b *Board) Hold(ctx context.Context, order Order) (*Operation, error) {
	o := &Operation{board: b, order: order, members: map[string]*member{}, wake: make(chan struct{})}
	o.ctx, o.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	b.mu.Lock()
	for _, claim := range order.Claims {
		if b.room(claim).top >= order.Generation {
			b.mu.Unlock()
			o.stop(ErrStale)
			return nil, fmt.Errorf("holding %s: %w", claim, ErrStale)
		}
	}
	for _, claim := range order.Claims {
		r := b.room(claim)
		if r.operation != nil {
			r.operation.fail(errSuperseded)
		}
		r.operation, r.top, r.follow = o, order.Generation, nil
	}
	o.arm(order.Budget)
	b.mu.Unlock()
	return o, o.advance(ctx, wire.Hold, 0)
}

// Generation is the highest that is known for any of claims; the next operation
// needs a higher one.
func (b *Board) Generation(claims ...Claim) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	var top uint64
	for _, claim := range claims {
		if r := b.rooms[claim]; r != nil {
			top = max(top, r.top)
		}
	}
	return top
}

// Pause returns once no proxy has a connection to its server: clients wait. The
// budget is for everything until Resume is called; over it, all proxies go on
// with the server of before, whether or not anybody calls Abort.
func (o *Operation) Pause(ctx context.Context, budget time.Duration) error {
	return o.advance(ctx, wire.Pause, budget)
}

// Retarget returns once every proxy would go on at its target; none does yet.
func (o *Operation) Retarget(ctx context.Context) error {
	return o.advance(ctx, wire.Retarget, 0)
}

// Resume lets clients go on: at the targets after Retarget, else where they
// were. When Context has ended before, it returns the reason and does nothing.
// Any other error names proxies that did not answer: those go back by
// themselves, and are sent after the others when they are heard of again.
func (o *Operation) Resume(ctx context.Context) error { return o.finish(ctx, wire.Resume, errFinished) }

// Abort has all proxies go on with the server of before. It does nothing to an
// operation that is over.
func (o *Operation) Abort(ctx context.Context) {
	if err := o.finish(ctx, wire.Abort, ErrAborted); err != nil {
		o.board.log.Warn("not every proxy heard of the abort: the rest goes on by itself", "error", err)
	}
}

// Context ends when the operation is over, with the reason as its cause.
func (o *Operation) Context() context.Context { return o.ctx }

// Proxies is how many take part at the moment.
func (o *Operation) Proxies() int {
	o.board.mu.Lock()
	defer o.board.mu.Unlock()
	return len(o.members)
}

// advance asks every proxy for a stage and waits for all of them. Budget 0
// leaves the deadline as it is.
func (o *Operation) advance(ctx context.Context, stage wire.Verb, budget time.Duration) error {
	b := o.board
	b.mu.Lock()
	if o.ctx.Err() != nil {
		b.mu.Unlock()
		return o.cause(stage)
	}
	o.stage = stage
	o.moved = o.moved || stage == wire.Retarget
	if budget > 0 {
		o.timer.Stop()
		o.arm(budget)
	}
	for _, claim := range o.order.Claims {
		for _, s := range b.room(claim).sessions {
			o.member(s)
			s.send(o.directive(claim, stage))
		}
	}
	b.mu.Unlock()
	if err := o.await(ctx, stage); err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		o.fail(err)
		return o.cause(stage)
	}
	return nil
}

// arm begins a budget. The caller has the lock.
func (o *Operation) arm(budget time.Duration) {
	o.deadline = time.Now().Add(budget)
	o.timer = time.AfterFunc(budget, o.expire)
}

func (o *Operation) cause(stage wire.Verb) error {
	return fmt.Errorf("telling proxies to %s: %w", stage, context.Cause(o.ctx))
}

// finish tells all proxies the end. From the moment it has begun, the budget
// counts no more.
func (o *Operation) finish(ctx context.Context, stage wire.Verb, cause error) error {
	b := o.board
	b.mu.Lock()
	if o.ctx.Err() != nil {
		b.mu.Unlock()
		if stage == wire.Abort {
			return nil
		}
		return o.cause(stage)
	}
	o.end(stage, cause)
	o.listen(o)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		o.listen(nil)
	}()
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	return o.await(ctx, stage)
}

// listen has the answers to the end reach the operation. The caller has the lock.
func (o *Operation) listen(to *Operation) {
	for _, claim := range o.order.Claims {
		if r := o.board.rooms[claim]; r != nil && (to != nil || r.ending == o) {
			r.ending = to
		}
	}
}

// end takes the operation from its claims. The caller has the lock.
func (o *Operation) end(stage wire.Verb, cause error) {
	if o.ctx.Err() != nil {
		return
	}
	o.stage = stage
	o.stop(cause)
	o.timer.Stop()
	for _, claim := range o.order.Claims {
		r := o.board.room(claim)
		r.operation = nil
		if target, moves := o.order.Targets[claim]; moves && o.moved && stage == wire.Resume {
			r.follow = &following{o.order.Generation, toWire(target), time.Now().Add(followTime)}
		}
		for _, s := range r.sessions {
			s.send(o.directive(claim, stage))
		}
	}
	o.tell()
}

// fail ends the operation in favour of the server of before. The caller has the lock.
func (o *Operation) fail(cause error) { o.end(wire.Abort, cause) }

func (o *Operation) expire() {
	o.board.mu.Lock()
	defer o.board.mu.Unlock()
	o.fail(fmt.Errorf("the budget is over%s", o.missing()))
}
