package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/postgres/replication"
	"github.com/berth-dev/berth/step"
)

// maintenance is a side's administrator outside the tenant's database.
func maintenance(s replication.Side) postgres.Target {
	t := s.Admin
	t.Database = "postgres"
	return t
}

// look is how often progress is read while a job runs.
const look = 2 * time.Second

// background runs work as the migration's job and turns its end into an outcome.
func (w *Worker) background(s *scope, name string, work func(context.Context) (any, error)) (any, step.Outcome) {
	found, ended, err := w.jobs.run(s.migration, name, work)
	switch {
	case !ended:
		return nil, step.Wait(look, "Working", "The work is going on.")
	case errors.Is(err, replication.ErrChanged):
		return nil, step.Blocked("SchemaChanged", "Tables, functions or grants of the source were changed during the move. Delete this Migration and make it again, with no such change until it has switched.")
	case err != nil:
		return nil, backend.Outcome(err)
	}
	return found, step.Done()
}

// copySchema begins on both servers, up to the keys of empty tables.
func (w *Worker) copySchema(ctx context.Context, s *scope) step.Outcome {
	p, out := w.pair(ctx, s)
	if !out.IsDone() {
		return out
	}
	options := replication.Options{FullIdentity: s.migration.Spec.Accept.FullIdentity}
	_, out = w.background(s, "schema", func(ctx context.Context) (any, error) { return nil, p.Begin(ctx, options) })
	return out
}

// copyRows subscribes, and watches the copy, the source's disk and its schema.
func (w *Worker) copyRows(ctx context.Context, s *scope) step.Outcome {
	if why := s.migration.Status.Abandoned; why != "" {
		return abandoned(why)
	}
	p, out := w.pair(ctx, s)
	if !out.IsDone() {
		return out
	}
	links, err := p.Links(ctx)
	if err != nil {
		return backend.Outcome(err)
	}
	if len(links) == 0 {
		if _, out := w.background(s, "subscribe", func(ctx context.Context) (any, error) { return nil, p.Connect(ctx, 1, true) }); !out.IsDone() {
			return out
		}
	}
	kept, err := p.From.ReadRetention(ctx, p.Name)
	if err != nil {
		return backend.Outcome(err)
	}
	if why := replication.DecideRetention(kept, s.migration.Spec.WALLimitMB<<20); why != "" {
		return w.abandon(ctx, s, p, why)
	}
	progress, err := p.ReadProgress(ctx, 1)
	if err != nil {
		return backend.Outcome(err)
	}
	if err := p.CheckUnchanged(ctx); errors.Is(err, replication.ErrChanged) {
		return step.Blocked("SchemaChanged", "Tables, functions or grants of the source were changed during the copy. Delete this Migration and make it again, with no such change until it has switched.")
	} else if err != nil {
		return backend.Outcome(err)
	}
	s.migration.Status.Progress = progressOf(progress)
	if progress.Done() {
		return step.Done()
	}
	return step.Wait(look, "Copying", "%d of %d tables are copied.", progress.TablesDone, progress.Tables)
}

// abandon takes back all of it, before the source's disk is in danger.
func (w *Worker) abandon(ctx context.Context, s *scope, p replication.Pair, why string) step.Outcome {
	w.jobs.end(s.migration.UID)
	if err := p.Abort(ctx); err != nil {
		return backend.Outcome(fmt.Errorf("aborting: %w", err))
	}
	s.migration.Status.Abandoned = why
	return abandoned(why)
}

func abandoned(why string) step.Outcome {
	return step.Blocked("WALLimit", "%s The migration was taken back; the source serves. Delete it, and make another with more room.", why)
}

func progressOf(p replication.Progress) *v1alpha1.MigrationProgress {
	return &v1alpha1.MigrationProgress{
		Percent: int32(p.Percent()), Bytes: p.Bytes, BytesDone: p.BytesDone, Tables: int32(p.Tables), TablesDone: int32(p.TablesDone),
		Text: fmt.Sprintf("%d%% of %d MB", p.Percent(), p.Bytes>>20),
	}
}

// buildIndexes makes all that rows did not need on arrival, and compares.
func (w *Worker) buildIndexes(ctx context.Context, s *scope) step.Outcome {
	p, out := w.pair(ctx, s)
	if !out.IsDone() {
		return out
	}
	found, out := w.background(s, "indexes", func(ctx context.Context) (any, error) {
		if err := p.CopyRest(ctx); err != nil {
			return nil, err
		}
		return p.Differences(ctx)
	})
	if differences, _ := found.([]string); out.IsDone() && len(differences) > 0 {
		return step.Blocked("SchemasDiffer", "The target is not like the source in %d things; the first: %s.", len(differences), differences[0])
	}
	return out
}
