// Package dbproxy keeps a pgbouncer beside a tenant's program and moves it to
// each new credential of a mounted Secret without a client noticing.
//
// It supervises a real pgbouncer and never sees a query. When this process is
// killed, pgbouncer ends with it: clients see their connections closed, and
// connect again once it is back. It changes nothing on the server.
package dbproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/berth-dev/berth/mount"
	"github.com/berth-dev/berth/process"
)

// Waits between attempts: at a new credential that is refused, and at a
// pgbouncer that does not stay up.
const (
	firstRetry, lastRetry     = time.Second, 30 * time.Second
	firstRestart, lastRestart = 100 * time.Millisecond, 5 * time.Second
	stable                    = 10 * time.Second
)

// proxy is what the loop of Run owns; only figures is shared.
type proxy struct {
	Options
	log      *slog.Logger
	figures  *figures
	lines    *lineLog        // what pgbouncer says
	life     context.Context // of everything that is started in passing
	watchers sync.WaitGroup
	password string   // of clients; empty for none
	names    []string // client users so far: a name once accepted stays

	link *link      // nil without a switchboard
	op   *operation // nil while there is none
	seen uint64     // highest generation obeyed

	current  settings // what pgbouncer serves, or will when it is back
	wanted   *mount.Credential
	bouncer  *process.Process // nil while it is down
	started  time.Time
	retry    backoff
	restarts backoff
}

// Run serves the credential of o.Credentials at o.Listen until ctx ends, then
// lets clients finish for at most o.Drain and returns nil. It waits for the
// first credential for as long as it takes, and does not need the server to be
// up. A setting that cannot be used, a port that is taken, a state folder that
// cannot be written and a pgbouncer that does not start are errors.
func Run(ctx context.Context, o Options, log *slog.Logger) error {
	if err := o.Validate(); err != nil {
		return err
	}
	if os.Getuid() == 0 {
		return errRoot
	}
	password, err := o.clientPassword()
	if err != nil {
		return err
	}
	p := &proxy{
		Options: o, log: log, figures: newFigures(o), lines: &lineLog{log: log}, password: password, names: o.ClientUsers,
		retry: backoff{first: firstRetry, last: lastRetry}, restarts: backoff{first: firstRestart, last: lastRestart},
	}
	p.lines.hide(password)
	p.link = newLink(o, log, p.figures.registry)
	stop, err := p.figures.serve(log)
	if err != nil {
		return err
	}
	defer stop()
	var cancel context.CancelFunc
	p.life, cancel = context.WithCancel(ctx)
	defer p.watchers.Wait()
	defer cancel()
	credentials := mount.Dir(o.Credentials).Watch(p.life, func(err error) {
		p.trouble("reading the credential", err)
	})
	first := p.awaitFirst(ctx, credentials)
	if first == nil {
		return nil
	}
	p.current = settings{credential: *first, alias: p.alias(*first), generation: 1}
	p.wanted = first
	if err := p.prepareState(); err != nil {
		return err
	}
	defer p.greetSwitchboard(ctx)()
	if !p.op.paused() {
		if err := p.start(ctx); err != nil {
			return err
		}
	}
	p.watchFirst()
	return p.loop(ctx, credentials)
}

// alias is fixed from the first credential on: clients are connected to it.
func (p *proxy) alias(c mount.Credential) string {
	switch {
	case p.DatabaseAlias != "":
		return p.DatabaseAlias
	case usableAlias(c.Database):
		return c.Database
	}
	p.log.Warn("pgbouncer has no way to write the database's name: clients have to call it app")
	return "app"
}

// awaitFirst is nil when ctx ends before there is a credential.
func (p *proxy) awaitFirst(ctx context.Context, credentials <-chan mount.Credential) *mount.Credential {
	p.log.Info("waiting for a credential", "folder", p.Credentials)
	for {
		select {
		case <-ctx.Done():
			return nil
		case c, open := <-credentials:
			if !open {
				return nil
			}
			if err := checkWritable(c); err != nil {
				p.trouble("taking the credential", err)
				continue
			}
			return &c
		}
	}
}

// watchFirst says early when the first credential does not work. It serves all
// the same: there is no better one.
func (p *proxy) watchFirst() {
	credential := p.current.credential
	p.watchers.Go(func() {
		if err := prove(p.life, credential); err != nil && p.life.Err() == nil {
			p.trouble("logging in with the first credential", err)
		}
	})
}

func (p *proxy) loop(ctx context.Context, credentials <-chan mount.Credential) error {
	for {
		var died <-chan struct{}
		if p.bouncer != nil {
			died = p.bouncer.Done()
		}
		select {
		case <-ctx.Done():
			return p.drain()
		case <-died:
			p.fallen()
		case <-p.restarts.due():
			p.revive(ctx)
		case c, open := <-credentials:
			if !open {
				credentials = nil
				continue
			}
			p.wanted = &c
			p.retry.reset()
			p.apply(ctx)
		case d := <-p.link.orders():
			p.obey(ctx, d)
		case err := <-p.op.answered():
			p.pauseEnded(err)
		case <-p.op.due():
			p.expire()
		case <-p.retry.due():
			p.apply(ctx)
		}
	}
}

// apply brings pgbouncer to the wanted credential, or leaves it as it is and
// tries again later.
func (p *proxy) apply(ctx context.Context) {
	if p.op != nil {
		return // its end comes here again
	}
	if equal(*p.wanted, p.current.credential) {
		p.retry.reset()
		return
	}
	began := time.Now()
	result, err := p.change(ctx, *p.wanted)
	p.figures.flips.WithLabelValues(result).Inc()
	if err != nil {
		p.trouble("going to login "+p.wanted.User, err)
		p.retry.again()
		return
	}
	p.retry.reset()
	p.figures.flipSeconds.Observe(time.Since(began).Seconds())
	p.log.Info("serving with a new credential", "login", p.wanted.User, "took", time.Since(began).Round(time.Millisecond))
}

// change proves the credential before anything is touched.
func (p *proxy) change(ctx context.Context, next mount.Credential) (result string, err error) {
	if err := checkWritable(next); err != nil {
		return "refused", err
	}
	if err := prove(ctx, next); err != nil {
		return "refused", err
	}
	if p.bouncer == nil {
		p.current = settings{credential: next, alias: p.current.alias, generation: p.current.generation + 1}
		return "applied", nil
	}
	// An end that is asked for now waits for the change: it is short, and half of it is no state to drain in.
	if err := p.flip(context.WithoutCancel(ctx), next); err != nil {
		return "failed", err
	}
	return "applied", nil
}

// fallen plans the restart of a pgbouncer that has ended.
func (p *proxy) fallen() {
	p.log.Error("pgbouncer has ended", "cause", fmt.Sprint(p.bouncer.Err()))
	p.figures.restarts.Inc()
	p.figures.down("pgbouncer has ended and is being restarted")
	p.bouncer = nil
	if time.Since(p.started) > stable {
		p.restarts.reset()
	}
	p.restarts.again()
}

func (p *proxy) revive(ctx context.Context) {
	p.restarts.took()
	if p.op.paused() || ctx.Err() != nil {
		return // clients wait for the end of that, and so does the start
	}
	err := p.start(ctx)
	switch {
	case ctx.Err() != nil: // the loop ends
	case err != nil:
		p.trouble("restarting pgbouncer", err)
		p.restarts.again()
	default:
		p.apply(ctx) // its end may have cut a change short
	}
}

// trouble is the one place where a problem becomes a log line and a metric.
func (p *proxy) trouble(doing string, err error) {
	why := reason(err)
	p.figures.credentialErrors.WithLabelValues(why).Inc()
	p.figures.waiting(doing + ": " + err.Error())
	p.link.trouble(doing + ": " + err.Error())
	p.log.Warn("a problem while "+doing, "reason", why, "error", err)
}

// backoff waits longer each time, up to a limit.
type backoff struct {
	first, last time.Duration
	wait        time.Duration
	timer       *time.Timer
}

func (b *backoff) reset() { b.took(); b.wait = 0 }

func (b *backoff) took() {
	if b.timer != nil {
		b.timer.Stop()
	}
	b.timer = nil
}

func (b *backoff) again() {
	b.took()
	b.wait = min(max(2*b.wait, b.first), b.last)
	b.timer = time.NewTimer(b.wait)
}

// due is nil, which is never, unless something was put off.
func (b *backoff) due() <-chan time.Time {
	if b.timer == nil {
		return nil
	}
	return b.timer.C
}

func equal(a, b mount.Credential) bool {
	return a.URI() == b.URI() && string(a.RootCA) == string(b.RootCA)
}

var (
	errPortTaken = errors.New("the port is taken")
	errRoot      = errors.New("pgbouncer refuses to run as root: run as another account")
)
