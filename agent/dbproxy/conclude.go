package dbproxy

import (
	"context"

	"github.com/berth-dev/berth/mount"
)

// conclude ends the operation: clients go on with c. A pgbouncer that does not
// take it is restarted, since nobody else would ever resume it.
func (p *proxy) conclude(c mount.Credential) {
	op := p.op
	op.timer.Stop()
	op.stop()
	p.op = nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.life), flipLimit)
	defer cancel()
	if p.bouncer == nil {
		p.current = p.following(c, 1, false)
		p.revive(p.life)
		return
	}
	if err := p.release(ctx, c, op.paused()); err != nil {
		p.trouble("going on after an operation of the switchboard", err)
		p.current = p.following(c, 1, false)
		_ = p.bouncer.Stop(0) // the loop sees its end, and starts another
		return
	}
	p.figures.serving(p.current)
	if op.paused() && op.pausing == nil { // no connection was left
		p.link.uses(p.link.changing(), c)
	}
	if p.life.Err() == nil {
		p.apply(p.life)
	}
}

func (p *proxy) release(ctx context.Context, c mount.Credential, paused bool) error {
	if p.current.held || !equal(p.current.credential, c) {
		if err := p.load(ctx, c, false); err != nil {
			return err
		}
	}
	if !paused {
		return nil
	}
	console, err := p.dialConsole(ctx)
	if err != nil {
		return err
	}
	defer console.close()
	return console.resume(ctx)
}

// load has pgbouncer take other settings, or is an error.
func (p *proxy) load(ctx context.Context, c mount.Credential, held bool) error {
	next := p.following(c, 1, held)
	p.current.generation++ // no second attempt is taken for this one
	p.lines.hide(c.Password)
	defer p.clearStaged()
	if err := p.stageAll(c, []settings{next}); err != nil {
		return err
	}
	console, err := p.dialConsole(ctx)
	if err != nil {
		return err
	}
	defer console.close()
	if err := p.take(ctx, console, next); err != nil {
		return err
	}
	p.current = next
	return nil
}
