package migration

import (
	"context"
	"fmt"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/step"
)

const claimIndex = "spec.claim"

// SetUp makes mgr keep Migrations, workers passes at once. Jobs end with ctx.
func (w *Worker) SetUp(ctx context.Context, mgr ctrl.Manager, workers int) error {
	w.jobs.begin(ctx)
	err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.Migration{}, claimIndex, func(o client.Object) []string {
		return []string{o.(*v1alpha1.Migration).Spec.Claim}
	})
	if err != nil {
		return fmt.Errorf("indexing migrations by claim: %w", err)
	}
	// The manager ends only when no job is left: one may be in a pause.
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		<-ctx.Done()
		w.jobs.group.Wait()
		return nil
	})); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.Migration{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.DatabaseClaim{}, handler.EnqueueRequestsFromMapFunc(w.migrationsOf)).
		WatchesRawSource(source.Channel(w.jobs.wake, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, RateLimiter: step.Backoff()}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), &step.Reconciler[*v1alpha1.Migration, *scope]{
			Client: mgr.GetClient(), Events: mgr.GetEventRecorder("berth"), Clock: w.Clock, Plan: w.Plan(),
		}))
}

func (w *Worker) migrationsOf(ctx context.Context, claim client.Object) []reconcile.Request {
	list := &v1alpha1.MigrationList{}
	if err := w.Client.List(ctx, list, client.InNamespace(claim.GetNamespace()), client.MatchingFields{claimIndex: claim.GetName()}); err != nil {
		return nil // the cache is closing; a new process looks at every migration
	}
	var requests []reconcile.Request
	for i := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return requests
}
