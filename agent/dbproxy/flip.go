package dbproxy

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-dev/berth/mount"
	"github.com/berth-dev/berth/postgres"
)

const (
	flipLimit = 15 * time.Second
	// holdLimit bounds the wait for logins in flight. A server that does not
	// answer would keep them there; then the change costs a stall of a second.
	holdLimit = 3 * time.Second
	pollEvery = time.Millisecond
)

// prove logs in directly, past pgbouncer. Its error is a *postgres.Fault.
func prove(ctx context.Context, c mount.Credential) error {
	cfg, err := c.ConnConfig()
	if err != nil {
		return err
	}
	conn, err := pgconn.ConnectConfig(ctx, &cfg.Config) // without pgx's table of types
	if err != nil {
		fault := postgres.Explain(err)
		return &fault
	}
	_ = conn.Close(ctx) // the login has succeeded
	return nil
}

// flip moves pgbouncer from the current credential to next, which was proved.
// Every file is on disk before the first takes effect, so that a full disk
// changes nothing. On an error the current credential goes on serving.
//
// pgbouncer books a server login that it drops as a failed one, and then lets
// clients wait for the next. So the pool is first held at one connection, until
// no login is in flight, and only then is the server or its user changed.
func (p *proxy) flip(ctx context.Context, next mount.Credential) error {
	ctx, cancel := context.WithTimeout(ctx, flipLimit)
	defer cancel()
	old := p.current
	hold, final := p.following(old.credential, 1, true), p.following(next, 3, false)
	undo := p.following(old.credential, 4, false)
	stages := []settings{hold, final}
	passwordOnly := old.credential.User == next.User && sameDatabase(old.credential, next)
	if passwordOnly {
		stages = []settings{hold, p.following(next, 2, true), final}
	}
	p.lines.hide(next.Password)
	defer p.clearStaged()
	if err := p.stageAll(next, append(stages, undo)); err != nil {
		return err
	}
	c, err := p.dialConsole(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	for i, s := range stages {
		err := p.take(ctx, c, s)
		switch {
		case err != nil:
		case i == 0:
			err = p.awaitNoLogin(ctx, c)
		case i == 1 && passwordOnly:
			// The same user: pgbouncer would keep its connections, and never notice.
			err = c.command(ctx, "RECONNECT "+key(p.current.alias))
		}
		if err != nil {
			return errors.Join(err, p.back(undo))
		}
	}
	p.current = final
	p.figures.serving(final)
	if !passwordOnly {
		p.leaveBehind(old.credential, next)
	}
	return nil
}

// following is a configuration some generations after the current one.
func (p *proxy) following(c mount.Credential, generations int, held bool) settings {
	return settings{credential: c, alias: p.current.alias, held: held, generation: p.current.generation + generations}
}

func sameDatabase(a, b mount.Credential) bool {
	return a.Host == b.Host && a.Port == b.Port && a.Database == b.Database
}

// key is a database's name as the console reads it.
func key(alias string) string { return `"` + alias + `"` }

func staged(s settings) string { return "pgbouncer.ini." + strconv.Itoa(s.generation) + ".staged" }

func (p *proxy) stageAll(next mount.Credential, all []settings) error {
	if err := p.writeBeside(settings{credential: next}); err != nil {
		return err
	}
	for _, s := range all {
		if err := p.stage(staged(s), p.render(s)); err != nil {
			return err
		}
	}
	return nil
}

// take puts a staged configuration in place and has pgbouncer read it.
func (p *proxy) take(ctx context.Context, c *console, s settings) error {
	if err := p.put(staged(s), "pgbouncer.ini"); err != nil {
		return err
	}
	if err := c.command(ctx, "RELOAD"); err != nil {
		return err
	}
	return c.verify(ctx, p.Options, s)
}

// awaitNoLogin returns when pgbouncer logs in nowhere, or after holdLimit.
func (p *proxy) awaitNoLogin(ctx context.Context, c *console) error {
	limit := time.NewTimer(holdLimit)
	defer limit.Stop()
	again := time.NewTicker(pollEvery)
	defer again.Stop()
	for {
		now, err := c.pools(ctx, p.current.alias)
		if err != nil || now.loggingIn == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			p.log.Warn("a login to the server takes long: changing without waiting for it")
			return nil
		case <-again.C:
		}
	}
}

// back returns to the credential before. It has time of its own: what failed
// may have been the clock of the change.
func (p *proxy) back(undo settings) error {
	ctx, cancel := context.WithTimeout(context.Background(), flipLimit)
	defer cancel()
	if err := p.put(staged(undo), "pgbouncer.ini"); err != nil {
		return err
	}
	p.current = undo
	c, err := p.dialConsole(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.command(ctx, "RELOAD"); err != nil {
		return err
	}
	return c.verify(ctx, p.Options, undo)
}
