package dbproxy

import (
	"context"
	"time"
)

// finishShare is the part of the drain time, at most finishLimit, that is kept
// for transactions of clients which do not leave.
const (
	finishShare = 4
	finishLimit = 5 * time.Second
)

// drain lets nobody new in, waits for clients to leave, then for the
// transactions of those that stay, and ends pgbouncer within the drain time.
func (p *proxy) drain() error {
	p.link.drain()
	if p.op != nil {
		p.conclude(p.op.before)
	}
	if p.bouncer == nil {
		return nil
	}
	deadline := time.Now().Add(p.Drain)
	p.figures.drain()
	p.log.Info("draining", "at most", p.Drain)
	ctx, cancel := context.WithDeadline(context.Background(), deadline.Add(-min(p.Drain/finishShare, finishLimit)))
	defer cancel()
	if err := p.awaitLeft(ctx); err != nil {
		p.log.Warn("not all clients left by themselves", "error", err)
	}
	return p.bouncer.Stop(time.Until(deadline))
}

func (p *proxy) awaitLeft(ctx context.Context) error {
	c, err := p.dialConsole(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.command(ctx, "DISABLE "+key(p.current.alias)); err != nil {
		return err
	}
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		now, err := c.pools(ctx, p.current.alias)
		if err != nil || now.clients == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.bouncer.Done():
			return nil
		case <-again.C:
		}
	}
}
