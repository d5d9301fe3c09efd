package dbproxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-dev/berth/mount"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/switchboard/wire"
)

// greetLimit is how long a new proxy waits for the switchboard's first answer:
// its claim may be paused. An unreachable switchboard keeps nobody longer.
const greetLimit = 2 * time.Second

// operation is what the switchboard has begun here, and not ended. Its timer is
// this process's own: past it, clients go on with the server of before.
type operation struct {
	generation uint64
	before     mount.Credential
	target     *mount.Credential // nil until retargeted
	stage      wire.Verb         // the last one that was begun
	pausing    chan error        // not nil while PAUSE is waited for
	stop       func()            // ends that wait, and returns when it has ended
	timer      *time.Timer
}

// paused tells that clients wait, or are made to.
func (o *operation) paused() bool {
	return o != nil && (o.stage == wire.Pause || o.stage == wire.Retarget)
}

// due is nil, which is never, without an operation.
func (o *operation) due() <-chan time.Time {
	if o == nil {
		return nil
	}
	return o.timer.C
}

func (o *operation) answered() <-chan error {
	if o == nil {
		return nil
	}
	return o.pausing
}

// greetSwitchboard calls the switchboard and obeys what it says at once. The
// stream stays until hangUp is called, which comes after the drain.
func (p *proxy) greetSwitchboard(ctx context.Context) (hangUp func()) {
	if p.link == nil {
		return func() {}
	}
	calling, stop := context.WithCancel(context.WithoutCancel(ctx))
	hangUp = func() { p.link.leave(); stop() }
	p.link.uses(0, p.current.credential)
	p.watchers.Go(func() { p.link.run(calling) })
	limit := time.NewTimer(greetLimit)
	defer limit.Stop()
	for {
		select {
		case d := <-p.link.directives:
			p.obey(ctx, d)
		case <-p.link.greeted:
			return hangUp
		case <-limit.C:
			return hangUp
		case <-ctx.Done():
			return hangUp
		}
	}
}

// obey carries out one directive and answers. PAUSE is answered when it is done.
func (p *proxy) obey(ctx context.Context, d wire.Directive) {
	p.log.Info("the switchboard says", "directive", d)
	if d.Verb == wire.Follow {
		p.link.answer(d, p.follow(ctx, d))
		return
	}
	err := p.accept(d)
	if err == nil && p.op != nil {
		err = p.carryOut(ctx, d)
	}
	if err != nil && p.op != nil && d.Generation == p.op.generation {
		p.conclude(p.op.before)
	}
	if err != nil || p.op == nil || p.op.pausing == nil {
		p.link.answer(d, err)
	}
}

// accept refuses what is older than something seen, and begins an operation. A
// newer operation ends the one before.
func (p *proxy) accept(d wire.Directive) error {
	seen := p.seen
	if d.Generation < seen {
		return fmt.Errorf("generation %d is lower than %d, which was seen", d.Generation, seen)
	}
	if p.op != nil && d.Generation > p.op.generation {
		p.conclude(p.op.before)
	}
	p.seen = d.Generation
	p.link.sees(d.Generation)
	switch {
	case p.op != nil:
		p.op.timer.Reset(d.Budget)
		return nil
	case d.Verb == wire.Abort:
		return nil
	case d.Generation == seen:
		return fmt.Errorf("generation %d is over here", d.Generation)
	case d.Verb != wire.Hold && d.Verb != wire.Pause:
		return fmt.Errorf("generation %d was not begun here", d.Generation)
	}
	p.op = &operation{generation: d.Generation, before: p.current.credential, timer: time.NewTimer(d.Budget), stop: func() {}}
	return nil
}

func (p *proxy) carryOut(ctx context.Context, d wire.Directive) error {
	switch d.Verb {
	case wire.Hold:
		return p.hold(ctx, d)
	case wire.Pause:
		return p.pause(ctx)
	case wire.Retarget:
		return p.retarget(ctx, d)
	case wire.Resume:
		next := p.op.before
		if p.op.target != nil {
			next = *p.op.target
			p.wanted = p.op.target // the mounted Secret counts again once it changes
		}
		p.conclude(next)
		return nil
	case wire.Abort:
		p.conclude(p.op.before)
		return nil
	}
	return fmt.Errorf("%q is not known to this version", d.Verb)
}

// hold tries the coming target, then has no login in flight until the end.
func (p *proxy) hold(ctx context.Context, d wire.Directive) error {
	if d.Target != nil {
		if err := try(ctx, p.at(*d.Target)); err != nil {
			return fmt.Errorf("trying the target: %w", err)
		}
	}
	return p.clamp(ctx)
}

// clamp holds the pool at one connection, unless that is so already.
func (p *proxy) clamp(ctx context.Context) error {
	if p.bouncer == nil || p.op.stage != "" {
		return nil
	}
	p.op.stage = wire.Hold
	if err := p.load(ctx, p.current.credential, true); err != nil {
		return err
	}
	c, err := p.dialConsole(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	return p.awaitNoLogin(ctx, c)
}

// try logs in. A server that is closed to clients until they are moved there
// says so after the password was right.
func try(ctx context.Context, c mount.Credential) error {
	if err := checkWritable(c); err != nil {
		return err
	}
	err := prove(ctx, c)
	var fault *postgres.Fault
	if errors.As(err, &fault) && fault.Reason == postgres.TooManyConnections {
		return nil
	}
	return err
}

// pause begins to wait for PAUSE. A pgbouncer that is not there is not started.
func (p *proxy) pause(ctx context.Context) error {
	if p.op.paused() {
		return nil
	}
	if err := p.clamp(ctx); err != nil {
		return err
	}
	p.op.stage = wire.Pause
	if p.bouncer == nil {
		return nil
	}
	// The console is opened first, so that pgbouncer reads this PAUSE before
	// any RESUME, which comes by another connection.
	c, err := p.dialConsole(ctx)
	if err != nil {
		return err
	}
	waiting, stop := context.WithCancel(p.life)
	over, answer := make(chan struct{}), make(chan error, 1)
	p.op.pausing, p.op.stop = answer, func() { stop(); <-over }
	p.watchers.Go(func() {
		defer close(over)
		defer c.close()
		answer <- c.command(waiting, "PAUSE")
	})
	return nil
}

// pauseEnded answers the directive that began the wait.
func (p *proxy) pauseEnded(err error) {
	d := wire.Directive{Verb: wire.Pause, Generation: p.op.generation}
	if err != nil {
		p.conclude(p.op.before)
	} else {
		p.op.pausing = nil
	}
	p.link.answer(d, err)
}

func (p *proxy) retarget(ctx context.Context, d wire.Directive) error {
	if !p.op.paused() || p.op.pausing != nil {
		return errors.New("clients are not paused")
	}
	if d.Target == nil {
		return errors.New("there is no target")
	}
	next := p.at(*d.Target)
	if err := checkWritable(next); err != nil {
		return err
	}
	p.op.stage, p.op.target = wire.Retarget, &next
	if p.bouncer == nil || equal(next, p.current.credential) && !p.current.held {
		return nil
	}
	return p.load(ctx, next, false)
}

// follow takes a target like a new credential of the mounted Secret.
func (p *proxy) follow(ctx context.Context, d wire.Directive) error {
	if d.Target == nil || d.Generation < p.seen || p.op != nil {
		return fmt.Errorf("generation %d is not to be followed here", d.Generation)
	}
	p.seen = d.Generation
	p.link.sees(d.Generation)
	next := p.at(*d.Target)
	p.wanted = &next
	if p.bouncer == nil {
		p.current.credential = next
		return nil
	}
	p.apply(ctx)
	return nil
}

// expire ends an operation whose budget is over.
func (p *proxy) expire() {
	generation := p.op.generation
	p.log.Warn("the switchboard's operation is over its budget: going on as before", "generation", generation)
	p.conclude(p.op.before)
	p.link.answer(wire.Directive{Verb: wire.Expired, Generation: generation}, errors.New("the budget is over"))
}

// at is the credential for a target; one without a user keeps the login there is.
func (p *proxy) at(t wire.Target) mount.Credential {
	if t.User == "" {
		t.User, t.Password = p.current.credential.User, p.current.credential.Password
	}
	return mount.Credential{Target: postgres.Target{
		Host: t.Host, Port: t.Port, User: t.User, Password: t.Password, Database: t.Database, SSLMode: t.SSLMode, RootCA: t.RootCA,
	}}
}
