package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/postgres/replication"
)

// Held are all proxies of one database, while none of them changes anything by
// itself. A method that fails has let all go on where they were, but Resume.
type Held interface {
	// Pause returns when no proxy has a session on the server any more. Past
	// budget each lets its clients go on by itself, where they were.
	Pause(ctx context.Context, budget time.Duration) error
	// Retarget returns when each would go on at the target; none does yet.
	Retarget(ctx context.Context) error
	// Resume lets clients go on, at the target after Retarget.
	Resume(ctx context.Context) error
	// Abort lets them go on where they were. It does nothing once all is over.
	Abort(ctx context.Context)
}

// Hold takes hold of all proxies, which shall move to the target; the login
// they have stays. It is outside the pause.
type Hold func(ctx context.Context, to postgres.Target) (Held, error)

// Budget is the longest that clients wait for a switch that does not happen.
const Budget = 400 * time.Millisecond

// guard is how long the source stays closed when nobody opens it: well after a
// switch in its budget has decided, and soon enough for clients. Proxies wait
// for half of the budget longer, which is when the source is closed at the
// latest: one that gives up finds it open again.
const guard = 3 * Budget

// ErrNotNow means that the switch did not happen and the source serves; the
// reason may pass.
var ErrNotNow = errors.New("the database stays where it is for now")

// notNow is the reason for an ErrNotNow, without its words.
type notNow struct{ error }

// Is makes every notNow an ErrNotNow.
func (n notNow) Is(target error) bool { return target == ErrNotNow }

// Unwrap is the reason.
func (n notNow) Unwrap() error { return n.error }

// Switch brings the clients of one database from a pair's source to its target.
type Switch struct {
	replication.Pair
	Hold    Hold
	Checker *replication.Checker
	Link    int64         // number of the link that leads to the target
	Budget  time.Duration // zero is Budget
	// LargeObjectsStay accepts that they are left behind.
	LargeObjectsStay bool
}

// Report says how long each part of a switch took.
type Report struct {
	Pause  time.Duration // from the first proxy asked to the last resumed
	Phases []Phase
	Ended  int // sessions that were not a proxy's, and had to be ended
}

// Phase is one part of the pause.
type Phase struct {
	Name string
	Took time.Duration
}

// sessions are those that have to be open before the source is closed.
type sessions struct {
	from, to  *pgx.Conn
	fence     *replication.Fence
	held      Held
	sequences *replication.Sequences
	keep      []uint32
}

func (s *sessions) close() {
	for _, conn := range []*pgx.Conn{s.from, s.to} {
		if conn != nil {
			_ = conn.Close(context.Background()) // nothing depends on the goodbye
		}
	}
	if s.fence != nil {
		s.fence.End()
	}
}

// Run switches. Its error is ErrNotNow when the source serves, as before; any
// other leaves it to Settle to find out who does.
func (s Switch) Run(ctx context.Context) (Report, error) {
	var report Report
	open, err := s.prepare(ctx)
	if err != nil {
		return report, notNow{fmt.Errorf("preparing the switch: %w", err)}
	}
	defer open.close()
	if open.held, err = s.Hold(ctx, s.To.Admin); err != nil {
		return report, notNow{fmt.Errorf("holding the proxies: %w", err)}
	}
	began := time.Now()
	err = s.pause(ctx, open, &report)
	if errors.Is(err, ErrNotNow) {
		if failed := s.giveBack(ctx, open); failed != nil { // the guard does it soon
			err = notNow{fmt.Errorf("%w; and %w", err, failed)}
		}
		report.Pause = time.Since(began)
		return report, err
	}
	if err != nil {
		return report, err
	}
	if err := replication.OpenDoors(ctx, open.to, s.Name); err != nil {
		return report, fmt.Errorf("opening the target: %w", err)
	}
	err = open.held.Resume(ctx)
	if err != nil { // some went back to a server that is closed
		err = Reroute(ctx, s.Hold, s.To.Admin)
	}
	report.Pause = time.Since(began)
	return report, err
}

// Reroute has proxies follow a decision that was made without them.
func Reroute(ctx context.Context, hold Hold, to postgres.Target) error {
	held, err := hold(ctx, to)
	if err == nil {
		err = held.Pause(ctx, Budget)
	}
	if err == nil {
		err = held.Retarget(ctx)
	}
	if err == nil {
		err = held.Resume(ctx)
	}
	if err != nil {
		return fmt.Errorf("sending the proxies after the database: %w", err)
	}
	return nil
}

// pause is everything from the first proxy's pause to the decision. Until
// Leave every failure gives the database back.
func (s Switch) pause(ctx context.Context, open *sessions, report *Report) error {
	budget := s.Budget
	if budget == 0 {
		budget = Budget
	}
	limited, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	for _, part := range s.parts(open, budget, report) {
		began := time.Now()
		err := part.run(limited)
		report.Phases = append(report.Phases, Phase{part.name, time.Since(began)})
		if err != nil {
			return notNow{fmt.Errorf("%s: %w", part.name, err)}
		}
	}
	// Past the budget a decision could still be made, but was promised not to be.
	if err := limited.Err(); err != nil {
		return notNow{err}
	}
	// Its answer is waited for: a decision that is not known is the worst.
	err := open.fence.Leave(ctx)
	if errors.Is(err, replication.ErrReturned) {
		err = notNow{err}
	}
	return err
}

type part struct {
	name string
	run  func(context.Context) error
}

// parts are the pause, in order. The source is closed before anything is read
// that must not change, and nothing is rerouted here.
func (s Switch) parts(open *sessions, budget time.Duration, report *Report) []part {
	var mark int64
	return []part{
		{"pause", func(ctx context.Context) error {
			half, cancel := context.WithTimeout(ctx, budget/2)
			defer cancel()
			return open.held.Pause(half, budget/2+guard)
		}},
		{"fence", func(ctx context.Context) error {
			if err := open.fence.Set(ctx, guard); err != nil {
				return err
			}
			ended, err := open.fence.Sweep(ctx, open.keep)
			report.Ended = ended
			return err
		}},
		{"mark", func(ctx context.Context) (err error) {
			mark, err = replication.Mark(ctx, open.from, s.Name)
			return err
		}},
		{"catch-up", func(ctx context.Context) error {
			work, ctx := errgroup.WithContext(ctx)
			work.Go(func() error { return s.sameContent(ctx, mark) })
			work.Go(func() error {
				if err := open.sequences.Copy(ctx); err != nil {
					return err
				}
				return replication.SameLogins(ctx, open.from, open.to, s.Name)
			})
			return work.Wait()
		}},
		{"cut", func(ctx context.Context) error { return s.Cut(ctx, open.to, s.Link+1) }},
		{"retarget", open.held.Retarget},
	}
}

// sameContent waits for the mark and compares what changed since the last look.
// Nothing is on its way any more: what differs now would stay so.
func (s Switch) sameContent(ctx context.Context, mark int64) error {
	if err := s.Checker.Await(ctx, mark); err != nil {
		return err
	}
	rows, tables, err := s.Checker.Round(ctx)
	switch {
	case err != nil:
		return err
	case rows > 0 || tables > 0:
		return fmt.Errorf("%d rows and %d tables differ, in %v", rows, tables, s.Checker.Differing())
	case s.Checker.Late() > 0:
		return errors.New("somebody wrote past the fence")
	}
	return nil
}

// giveBackLimit is for the way back to the clients, when the budget is spent.
const giveBackLimit = 2 * time.Second

// giveBack opens the source first: proxies that resume onto a closed one wait
// for their next try.
func (s Switch) giveBack(ctx context.Context, open *sessions) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackLimit)
	defer cancel()
	err := open.fence.Return(ctx)
	open.held.Abort(ctx)
	return err
}
