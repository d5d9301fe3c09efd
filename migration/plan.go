// Package migration moves the database of a claim to another server while it is
// used: the kind Migration, and the switch of who has the clients. The SQL is
// in postgres/replication; the proxies are reached through Hold.
package migration

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres/replication"
	"github.com/berth-dev/berth/step"
)

// Worker runs the steps of all migrations.
type Worker struct {
	backend.Means
	// Tools finds the programs that dump a schema of a major version.
	Tools func(major int) (replication.Tools, error)
	// Proxies takes hold of those of a claim; nil is a controller that none call.
	Proxies func(claim types.NamespacedName) Hold

	jobs jobs
}

// Plan is what becomes of a Migration, in order. What a step did is marked on
// the servers, so that a pass after a crash goes on from there.
func (w *Worker) Plan() step.Plan[*v1alpha1.Migration, *scope] {
	return step.Plan[*v1alpha1.Migration, *scope]{
		Kind:      "Migration",
		Finalizer: naming.Finalizer,
		Root:      v1alpha1.Succeeded,
		Batch:     true,
		Open:      w.open,
		Up: []step.Step[*scope]{
			step.Do(v1alpha1.Admitted, w.admit), // no deadline: only a person can change the answer
			step.Do(v1alpha1.TargetReady, w.readyTarget).Within(15 * time.Minute),
			step.Do(v1alpha1.PreflightPassed, w.preflight).Within(10 * time.Minute),
			step.Do(v1alpha1.SchemaCopied, w.copySchema).Within(10 * time.Minute),
			step.Do(v1alpha1.RowsCopied, w.copyRows), // takes what the size takes; its progress is in the status
			step.Do(v1alpha1.IndexesBuilt, w.buildIndexes).Within(12 * time.Hour),
			step.Do(v1alpha1.Switched, w.switchOver), // may wait for an approval or a time
			step.Do(v1alpha1.Closed, w.close),        // a person says when
		},
		Down: []step.Step[*scope]{step.Do(v1alpha1.Withdrawn, w.withdraw).Within(5 * time.Minute)},
	}
}
