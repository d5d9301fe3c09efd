package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-dev/berth/postgres/replication"
)

// What a switch demands before it begins, so that the pause is short.
const (
	oldestTransaction = 100 * time.Millisecond
	roundTrip         = 50 * time.Millisecond
	rounds            = 40 // looks at changed rows until none is behind
)

// prepare does everything that can be done while clients write: the gate, the
// way back, the sessions, and the plans of what runs in the pause.
func (s Switch) prepare(ctx context.Context) (*sessions, error) {
	if err := s.gate(ctx); err != nil {
		return nil, err
	}
	if err := s.CopyRoles(ctx); err != nil { // passwords may have been rotated
		return nil, err
	}
	if err := s.PrepareReverse(ctx, s.Link+1); err != nil {
		return nil, err
	}
	open := &sessions{}
	err := s.openSessions(ctx, open)
	if err == nil {
		err = s.settleRows(ctx, open)
	}
	if err != nil {
		open.close()
		return nil, err
	}
	return open, nil
}

// gate refuses what would make the pause long, or lose something.
func (s Switch) gate(ctx context.Context) error {
	hazards, err := s.From.ReadHazards(ctx)
	if err != nil {
		return err
	}
	switch {
	case hazards.Prepared > 0:
		return fmt.Errorf("%d prepared transactions are open", hazards.Prepared)
	case hazards.LargeObjects > 0 && !s.LargeObjectsStay:
		return fmt.Errorf("%d large objects would stay behind", hazards.LargeObjects)
	case hazards.Oldest > oldestTransaction:
		return fmt.Errorf("a transaction has been open for %s", hazards.Oldest.Round(time.Millisecond))
	}
	if err := s.CheckUnchanged(ctx); s.Link == 1 && err != nil {
		return err
	}
	differences, err := s.Differences(ctx)
	if err != nil {
		return err
	}
	if len(differences) > 0 {
		return fmt.Errorf("the schemas differ: %s", differences[0])
	}
	progress, err := s.ReadProgress(ctx, s.Link)
	if err != nil {
		return err
	}
	if !progress.Done() {
		return fmt.Errorf("%d of %d tables are copied", progress.TablesDone, progress.Tables)
	}
	return nil
}

func (s Switch) openSessions(ctx context.Context, open *sessions) (err error) {
	if err := s.Checker.Reconnect(ctx); err != nil {
		return err
	}
	if open.from, err = s.From.Open(ctx); err != nil {
		return err
	}
	if open.to, err = s.To.Open(ctx); err != nil {
		return err
	}
	if open.sequences, err = replication.PrepareSequences(ctx, open.from, open.to, s.Name); err != nil {
		return err
	}
	a, err := s.From.ReadStanding(ctx, s.Name)
	if err != nil {
		return err
	}
	b, err := s.To.ReadStanding(ctx, s.Name)
	if err != nil {
		return err
	}
	open.fence, err = replication.PrepareFence(ctx, s.From, s.Name, max(a.Attempt, b.Attempt)+1)
	if err != nil {
		return err
	}
	open.keep = append(append(open.fence.Sessions(), s.Checker.Sessions()...), open.from.PgConn().PID())
	return nil
}

// settleRows makes sure, with clients still writing, that the link is quick
// and that every row that was behind arrived; it also warms up every plan.
func (s Switch) settleRows(ctx context.Context, open *sessions) error {
	again := time.NewTicker(25 * time.Millisecond)
	defer again.Stop()
	quick := false
	for range rounds {
		took, err := s.markedRound(ctx, open)
		if err != nil {
			return err
		}
		rows, tables, err := s.Checker.Round(ctx)
		if err != nil {
			return err
		}
		if err := s.Skip(ctx, open.to, s.Link+1); err != nil {
			return err
		}
		if quick = took < roundTrip; quick && rows+tables < mostOpen {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
	if !quick {
		return errors.New("the target follows too slowly")
	}
	return fmt.Errorf("rows differ in %v", s.Checker.Differing())
}

// mostOpen rows may be on their way when the pause begins.
const mostOpen = 1000

// markedRound is how long a change takes from one side to the other.
func (s Switch) markedRound(ctx context.Context, open *sessions) (time.Duration, error) {
	began := time.Now()
	mark, err := replication.Mark(ctx, open.from, s.Name)
	if err != nil {
		return 0, err
	}
	limited, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.Checker.Await(limited, mark); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}
