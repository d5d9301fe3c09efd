package dbproxy

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/mount"
)

// watchAgain is how soon a watch over old transactions that failed is begun again.
const watchAgain = time.Second

// leaveBehind watches the transactions, or with session pooling the sessions,
// that go on as the old login, and ends those that are still there after the
// limit. Then the next login is all that is used. Nothing waits for it.
func (p *proxy) leaveBehind(old, next mount.Credential) {
	if p.Pool == "session" {
		p.log.Info("clients stay on the old login until they disconnect", "login", old.User)
	}
	change := p.link.changing()
	p.watchers.Go(func() {
		again := time.NewTicker(watchAgain)
		defer again.Stop()
		for {
			ended, err := p.awaitClosed(p.life, old)
			if p.life.Err() != nil {
				return
			}
			if err == nil {
				p.log.Info("the old login is not used here any more", "login", old.User, "transactions ended", ended)
				p.link.uses(change, next)
				return
			}
			p.log.Warn("watching the old login", "login", old.User, "error", err)
			p.link.trouble("watching the old login: " + err.Error())
			select {
			case <-again.C:
			case <-p.life.Done():
				return
			}
		}
	})
}

func (p *proxy) awaitClosed(ctx context.Context, old mount.Credential) (ended int, err error) {
	limited, cancel := ctx, context.CancelFunc(func() {})
	if p.OldLoginLimit > 0 && p.Pool != "session" {
		limited, cancel = context.WithTimeout(ctx, p.OldLoginLimit)
	}
	defer cancel()
	c, err := p.dialConsole(ctx)
	if err != nil {
		return 0, err
	}
	defer c.close()
	err = c.command(limited, "WAIT_CLOSE "+key(p.figures.alias()))
	if err == nil || !errors.Is(limited.Err(), context.DeadlineExceeded) {
		return 0, err
	}
	ctx, cancel = context.WithTimeout(ctx, flipLimit)
	defer cancel()
	return p.endOld(ctx, old)
}

// endOld ends this proxy's own sessions of the old login. Those of other
// proxies are not ours to end: they may not have seen the new credential yet.
func (p *proxy) endOld(ctx context.Context, old mount.Credential) (ended int, err error) {
	c, err := p.dialConsole(ctx)
	if err != nil {
		return 0, err
	}
	defer c.close()
	servers, err := c.show(ctx, "SERVERS")
	if err != nil {
		return 0, err
	}
	var pids []int32
	for _, row := range servers {
		pid, err := strconv.ParseInt(row["remote_pid"], 10, 32)
		if err == nil && row["close_needed"] == "1" && row["database"] == p.figures.alias() {
			pids = append(pids, int32(pid))
		}
	}
	cfg, err := old.ConnConfig()
	if err != nil {
		return 0, err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return 0, fmt.Errorf("logging in as %s: %w", old.User, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	// A login may end its own sessions, not those of the owner role it acts as.
	if _, err := conn.Exec(ctx, "SET ROLE NONE"); err != nil {
		return 0, fmt.Errorf("acting as %s: %w", old.User, err)
	}
	tag, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE pid = ANY($1) AND usename = session_user AND datname = current_database()`, pids)
	if err != nil {
		return 0, fmt.Errorf("ending sessions of %s: %w", old.User, err)
	}
	return int(tag.RowsAffected()), nil
}
