package local

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/process"
)

const (
	fastGrace      = 10 * time.Second // for a fast shutdown, which writes a checkpoint
	immediateGrace = 5 * time.Second
	firstLook      = 20 * time.Millisecond
	longLook       = time.Second
)

// running is a server's process.
type running struct {
	*process.Process
	log   string
	begin int64 // where in the log this process began
}

// awaitLogin returns once the server lets its administrator in. A server that
// recovers after a crash may take any time, so only its end is a failure.
func (s *server) awaitLogin(ctx context.Context, p *running) (postgres.Target, error) {
	password, err := os.ReadFile(s.path(adminName))
	if err != nil {
		return postgres.Target{}, fmt.Errorf("reading password: %w", err)
	}
	admin := administrator(s.read(), string(password))
	timer := time.NewTimer(firstLook)
	defer timer.Stop()
	for pause := firstLook; ; pause = min(pause*5/4, longLook) {
		select {
		case <-p.Done():
			return postgres.Target{}, p.crash(fatals)
		case <-ctx.Done():
			return postgres.Target{}, ctx.Err()
		case <-timer.C:
		}
		err := login(ctx, admin)
		if err == nil {
			return admin, nil
		}
		if why := postgres.Explain(err); why.Permanent {
			s.tell(backend.Observed{Exists: true, Permanent: true, Reason: why.Reason,
				Message: "The server runs and does not let its administrator in. " + why.Message})
		}
		timer.Reset(pause)
	}
}

func login(ctx context.Context, admin postgres.Target) error {
	config, err := admin.ConnConfig()
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// stop ends the process: orderly at first, then without a checkpoint, at last by force.
func (p *running) stop() {
	for _, s := range []struct {
		signal syscall.Signal
		grace  time.Duration
	}{{syscall.SIGINT, fastGrace}, {syscall.SIGQUIT, immediateGrace}} {
		select {
		case <-p.Done():
			return
		default:
		}
		_ = syscall.Kill(p.Pid(), s.signal) // it may end on its own at this moment
		timer := time.NewTimer(s.grace)
		select {
		case <-p.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	_ = p.Stop(0) // kills, which cannot fail for a child of ours
}
