package claim

import (
	"context"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/step"
)

// releaseGrace is how long the deletion of a claim that had its database waits
// for a server that does not answer or refuses. After that the claim goes, and
// the sweeper releases what it left as soon as the server is back.
const releaseGrace = 2 * time.Minute

// releaseDatabase takes the logins away and marks the database with the end of
// its undo window; it drops at once what has no window.
func (w *Worker) releaseDatabase(ctx context.Context, s *scope) step.Outcome {
	if s.claim.Status.Server == nil || s.claim.Status.Owner == "" {
		return w.forget(s)
	}
	if s.class == nil {
		return w.forget(s).Note("LeftBehind", "DatabaseClass %s is gone, and with it the way to the server: database %s stays as it is.", s.claim.Spec.Class, s.claim.Status.Database)
	}
	out := w.release(ctx, s)
	if !out.IsDone() && w.Clock.Now().Sub(s.claim.DeletionTimestamp.Time) > s.grace() {
		return w.forget(s).Note("LeftBehind", "The server did not let berth release database %s: %s. The sweeper does it once the server does.", s.claim.Status.Database, out.Text())
	}
	return out
}

// grace is none for a claim that never had its database on a shared server. A
// server of its own may be half made, and is let finish so that it can be seen
// to hold nothing.
func (s *scope) grace() time.Duration {
	if s.class.Spec.Dedicated || meta.IsStatusConditionTrue(s.claim.Status.Conditions, v1alpha1.DatabaseReady) {
		return releaseGrace
	}
	return 0
}

func (w *Worker) forget(s *scope) step.Outcome {
	w.verified.Forget(s.claim.UID)
	w.Keeper.Forget(s.claim.UID)
	return step.Done()
}

func (w *Worker) release(ctx context.Context, s *scope) step.Outcome {
	if out := w.reach(ctx, s, false); !out.IsDone() {
		return out
	}
	server := s.logins.Server
	facts, err := server.Facts(ctx)
	if err != nil {
		return backend.Outcome(err)
	}
	want := s.wantDatabase(w.Cluster)
	have, err := server.ReadDatabase(ctx, want)
	if err != nil {
		return backend.Outcome(err)
	}
	plan, dropped := s.decideRelease(postgres.Release{Database: want, Marker: want.Marker, Logins: have.Logins}, have, facts, w.Clock.Now())
	if err := server.Apply(ctx, plan); err != nil {
		return backend.Outcome(err)
	}
	if s.class.Spec.Dedicated && (dropped || !have.Exists) && !s.external() {
		if err := w.Finder.Backends[s.class.Spec.Backend].Delete(ctx, s.claim.Status.Server.ID); err != nil {
			return backend.Outcome(err)
		}
	}
	return w.forget(s)
}

// decideRelease says what becomes of the database: an external one loses only
// the claim's roles, a kept one is marked, one without an undo window is dropped.
func (s *scope) decideRelease(r postgres.Release, have postgres.DatabaseState, facts postgres.Facts, now time.Time) (plan []postgres.Statement, dropped bool) {
	window := s.class.Spec.Deletion.Window()
	if s.external() || !r.Marker.Retain && window <= 0 {
		return postgres.DecideDrop(r.Database, have, r.Logins, facts), !s.external()
	}
	r.Marker.Released = &now
	if !r.Marker.Retain {
		end := now.Add(window)
		r.Marker.DropAfter = &end
	}
	return postgres.DecideRelease(r, have, facts), false
}

// retains reports whether the database outlives its claim. A protected claim
// that is deleted all the same, as with its namespace, keeps its database.
func (s *scope) retains() bool {
	if s.claim.Spec.DeletionProtection || strings.EqualFold(s.claim.Spec.DeletionPolicy, "Orphan") {
		return true
	}
	return s.claim.Spec.DeletionPolicy == "" && s.class.Spec.Deletion.Reclaim == v1alpha1.Retain
}
