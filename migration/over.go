package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/postgres/replication"
	"github.com/berth-dev/berth/step"
)

const (
	// tries are made with one reading of all rows, breath apart.
	tries  = 3
	breath = 2 * time.Second
	// later is how soon a switch that did not happen is begun anew.
	later = 15 * time.Second
)

// switchOver brings the clients to the target, when they may go.
func (w *Worker) switchOver(ctx context.Context, s *scope) step.Outcome {
	m := s.migration
	if s.serving() == v1alpha1.SideTarget {
		return step.Done()
	}
	switch now := w.Clock.Now(); {
	case m.Spec.Serve == v1alpha1.SideSource:
		return step.Wait(0, "OnSource", "The target follows; set spec.serve to Target to switch.")
	case m.Spec.Approval == "Manual" && !m.Spec.Approved:
		return step.Wait(0, "ApprovalNeeded", "The target follows; set spec.approved to switch.")
	case m.Spec.At != nil && now.Before(m.Spec.At.Time):
		return step.Wait(m.Spec.At.Sub(now), "NotYet", "The switch is planned for %s.", m.Spec.At.UTC().Format(time.RFC3339))
	}
	return w.bring(ctx, s, v1alpha1.SideTarget)
}

// bring has side serve. Whatever an earlier process left half done is settled first.
func (w *Worker) bring(ctx context.Context, s *scope, side string) step.Outcome {
	p, out := w.pair(ctx, s)
	if !out.IsDone() {
		return out
	}
	want := Switch{Pair: p, Hold: w.hold(s.key()), LargeObjectsStay: s.migration.Spec.Accept.LargeObjectsStay}
	found, out := w.background(s, "switch to "+side, func(ctx context.Context) (any, error) { return want.bring(ctx, side) })
	if !out.IsDone() {
		return out
	}
	report := found.(brought)
	if report.notNow != nil {
		return step.Wait(later, "NotNow", "The database stays where it is for now: %s", report.notNow)
	}
	if err := w.rehome(ctx, s, side); err != nil {
		return step.Failed("ClaimNotMoved", fmt.Errorf("telling claim %s its server: %w", s.claim.Name, err))
	}
	m := s.migration
	m.Status.Serving = side
	m.Status.Switches = append(m.Status.Switches, v1alpha1.MigrationSwitch{
		At: metav1.NewTime(w.Clock.Now().Truncate(time.Second)), To: side, PauseMS: report.Pause.Milliseconds(), Ended: int32(report.Ended),
	})
	m.Status.Switches = m.Status.Switches[max(0, len(m.Status.Switches)-10):]
	return step.Done().Note("Switched", "The clients are on the %s; they waited for at most %s, and %d sessions past the proxies were ended.", side, report.Pause.Round(time.Millisecond), report.Ended)
}

type brought struct {
	Report
	notNow error
}

// bring settles, checks all content, and switches, whichever way side is.
func (s Switch) bring(ctx context.Context, side string) (brought, error) {
	settled, err := Settle(ctx, s.Pair)
	if err != nil {
		return brought{}, err
	}
	if settled.Moved {
		s.Pair = s.Swapped()
	}
	there := settled.Moved == (side == v1alpha1.SideTarget)
	if settled.Change || there { // a crash may have left proxies where nobody serves
		if err := Reroute(ctx, s.Hold, s.From.Admin); err != nil {
			return brought{}, err
		}
	}
	if there {
		return brought{}, nil
	}
	s.Link = settled.Link
	if s.Checker, err = replication.NewChecker(ctx, s.Pair); err != nil {
		return brought{}, err
	}
	defer s.Checker.Close()
	if err := s.Checker.Full(ctx); err != nil {
		return brought{}, err
	}
	for try := 1; ; try++ {
		report, err := s.Run(ctx)
		switch {
		case err == nil:
			return brought{Report: report}, s.Reverse(ctx, s.Link)
		case !errors.Is(err, ErrNotNow) || errors.Is(err, replication.ErrChanged):
			return brought{}, err
		case try == tries:
			return brought{report, err}, nil
		}
		select {
		case <-ctx.Done():
			return brought{report, err}, nil
		case <-time.After(breath):
		}
	}
}

// rehome has the claim live on the server that serves; its Secret follows. The
// claim's own controller writes to it meanwhile, and must not see the new version
// without the new server: the spec comes last.
func (w *Worker) rehome(ctx context.Context, s *scope, side string) error {
	to, version := *s.migration.Status.Target, s.migration.Spec.To.Version
	if side == v1alpha1.SideSource {
		to, version = *s.migration.Status.Source, majorOf(s.migration.Status.Source.Version)
	}
	claim := &v1alpha1.DatabaseClaim{}
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if err := w.Finder.Live.Get(ctx, client.ObjectKeyFromObject(s.claim), claim); err != nil {
			return err
		}
		guarded := func() client.Patch {
			return client.MergeFromWithOptions(claim.DeepCopy(), client.MergeFromWithOptimisticLock{})
		}
		patch := guarded()
		claim.Status.Server = &to
		if err := w.Client.Status().Patch(ctx, claim, patch); err != nil {
			return err
		}
		if majorOf(claim.Spec.DBVersion) == version {
			return nil
		}
		patch = guarded()
		claim.Spec.DBVersion = version
		return w.Client.Patch(ctx, claim, patch)
	})
}

// close keeps the way back open until it is not wanted any more, and goes it
// when asked.
func (w *Worker) close(ctx context.Context, s *scope) step.Outcome {
	m := s.migration
	if m.Spec.Serve != s.serving() && !m.Spec.Close {
		if out := w.bring(ctx, s, m.Spec.Serve); !out.IsDone() {
			return out
		}
	}
	if !m.Spec.Close {
		left := time.Duration(-1)
		if n := len(m.Status.Switches); m.Spec.CloseAfter != nil && n > 0 {
			left = m.Spec.CloseAfter.Duration - w.Clock.Now().Sub(m.Status.Switches[n-1].At.Time)
		}
		if left < 0 && m.Spec.CloseAfter == nil || left > 0 {
			return step.Wait(max(left, 0), "Following", "The %s serves, the other side follows it. spec.serve goes back; spec.close ends the link.", s.serving())
		}
	}
	p, out := w.pair(ctx, s)
	if !out.IsDone() {
		return out
	}
	if _, out = w.background(s, "close", func(ctx context.Context) (any, error) { return nil, p.Finish(ctx) }); !out.IsDone() {
		return out
	}
	return w.retire(ctx, s, s.serving())
}

// retire deletes the server that does not serve, unless the class retains.
func (w *Worker) retire(ctx context.Context, s *scope, serving string) step.Outcome {
	left := s.migration.Status.Source
	if serving == v1alpha1.SideSource {
		left = s.migration.Status.Target
	} else if s.class.Spec.Deletion.Reclaim == v1alpha1.Retain {
		return step.Done().Note("Retained", "Server %s is kept, closed to clients.", left.ID)
	}
	if err := w.Finder.Backends[s.class.Spec.Backend].Delete(ctx, left.ID); err != nil {
		return backend.Outcome(err)
	}
	return step.Done()
}

// withdraw takes back a migration that is not closed: before the switch all of
// it, after it the link. A claim that is gone took its servers along.
func (w *Worker) withdraw(ctx context.Context, s *scope) step.Outcome {
	w.jobs.end(s.migration.UID)
	if !s.begun() || meta.IsStatusConditionTrue(s.migration.Status.Conditions, v1alpha1.Closed) {
		return step.Done()
	}
	p, out := w.pair(ctx, s)
	if !out.IsDone() {
		return out.Again(secondLook)
	}
	settled, err := Settle(ctx, p)
	if err != nil {
		return backend.Outcome(err)
	}
	serving := v1alpha1.SideSource
	if settled.Moved {
		serving = v1alpha1.SideTarget
	}
	if serving != s.serving() { // a crash came between the switch and its record
		if err := w.rehome(ctx, s, serving); err != nil {
			return step.Failed("ClaimNotMoved", fmt.Errorf("telling claim %s its server: %w", s.claim.Name, err))
		}
	}
	if settled.Moved || len(s.migration.Status.Switches) > 0 {
		err = p.Finish(ctx)
	} else {
		err = p.Abort(ctx)
	}
	if err != nil {
		return backend.Outcome(err)
	}
	return w.retire(ctx, s, serving)
}
