package dbproxy

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-dev/berth/process"
)

const (
	pulseEvery = 2 * time.Second
	pulseLimit = time.Second // for the console's answer, and again for the port's
	// silences in a row make a hang. Answers are counted, not time: pgbouncer may
	// have been frozen together with this process, as a whole pod can be.
	silences = 5
)

// attend asks pgbouncer for its figures until it has ended, and kills it when
// it hangs. The loop starts it again, as after any end.
func (p *proxy) attend(bouncer *process.Process, alias string) {
	beat := time.NewTicker(pulseEvery)
	defer beat.Stop()
	pulse := pulse{Options: p.Options, alias: alias}
	defer pulse.close()
	for silent := 0; silent < silences; {
		select {
		case <-bouncer.Done():
			return
		case <-beat.C:
		}
		now, err := pulse.take()
		p.figures.pulse(now, err == nil)
		if err == nil {
			silent = 0
			continue
		}
		silent++
		p.log.Warn("pgbouncer does not answer", "times in a row", silent, "error", err)
	}
	p.log.Error("pgbouncer hangs: ending it, so that it can be started again")
	p.figures.hangs.Inc()
	_ = bouncer.Stop(0) // a kill has no error
}

// pulse asks over one connection that stays: a pgbouncer which has all the
// clients it may have lets no new one in, and is well.
type pulse struct {
	Options
	alias string
	c     *console
}

// take is an error only when neither the console nor the port answers; it has
// no figures when the port alone does.
func (u *pulse) take() (*pools, error) {
	ctx, cancel := context.WithTimeout(context.Background(), pulseLimit)
	defer cancel()
	now, err := u.ask(ctx)
	if err == nil {
		return &now, nil
	}
	u.close()
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) || probe(context.Background(), u.Listen) == nil {
		return nil, nil
	}
	return nil, err
}

func (u *pulse) ask(ctx context.Context) (now pools, err error) {
	if u.c == nil {
		if u.c, err = u.dialConsole(ctx); err != nil {
			return pools{}, err
		}
	}
	return u.c.pools(ctx, u.alias)
}

func (u *pulse) close() {
	if u.c != nil {
		u.c.close()
	}
	u.c = nil
}
