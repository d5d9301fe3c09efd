package role

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/step"
)

const sourceIndex = "spec.sourceDatabaseClaim"

// SetUp makes mgr keep RoleClaims, workers passes at once.
func (w *Worker) SetUp(ctx context.Context, mgr ctrl.Manager, workers int) error {
	err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.RoleClaim{}, sourceIndex, func(o client.Object) []string {
		return []string{sourceKey(o.(*v1alpha1.RoleClaim)).String()}
	})
	if err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.RoleClaim{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(w.ofSecret), builder.WithPredicates(notMade)).
		Watches(&v1alpha1.DatabaseClaim{}, handler.EnqueueRequestsFromMapFunc(w.ofClaim), builder.WithPredicates(readinessChanged)).
		WatchesRawSource(source.Channel(w.ReadersChanged(ctx, naming.RoleKind), &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, RateLimiter: step.Backoff()}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), &step.Reconciler[*v1alpha1.RoleClaim, *scope]{
			Client: mgr.GetClient(), Events: mgr.GetEventRecorder("berth"), Clock: w.Clock, Plan: w.Plan(),
		}))
}

// notMade drops the news that a role claim's own Secret was made, as package
// claim does; that of a claim may be what a copy waits for.
var notMade = predicate.Funcs{CreateFunc: func(e event.CreateEvent) bool {
	return e.Object.GetLabels()[naming.KindLabel] == naming.ClaimKind
}}

// readinessChanged passes what a role claim waits for: a new generation of its
// claim, or another answer to whether it is Ready.
var readinessChanged = predicate.Or(predicate.GenerationChangedPredicate{}, predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.(*v1alpha1.DatabaseClaim), e.ObjectNew.(*v1alpha1.DatabaseClaim)
		return meta.IsStatusConditionTrue(before.Status.Conditions, v1alpha1.Ready) != meta.IsStatusConditionTrue(after.Status.Conditions, v1alpha1.Ready)
	},
})

// ofSecret are the role claims a Secret of berth matters to: the one it was
// written for, and those that copy it.
func (w *Worker) ofSecret(ctx context.Context, o client.Object) []reconcile.Request {
	owner := types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetLabels()[naming.OwnerLabel]}
	switch o.GetLabels()[naming.KindLabel] {
	case naming.RoleKind:
		return []reconcile.Request{{NamespacedName: owner}}
	case naming.ClaimKind:
		return w.of(ctx, owner)
	}
	return nil
}

func (w *Worker) ofClaim(ctx context.Context, o client.Object) []reconcile.Request {
	return w.of(ctx, client.ObjectKeyFromObject(o))
}

func (w *Worker) of(ctx context.Context, claim types.NamespacedName) []reconcile.Request {
	roles := &v1alpha1.RoleClaimList{}
	if err := w.Client.List(ctx, roles, client.MatchingFields{sourceIndex: claim.String()}); err != nil {
		return nil // the cache is closing; a new process looks at every role claim
	}
	requests := make([]reconcile.Request, len(roles.Items))
	for i := range roles.Items {
		requests[i].NamespacedName = client.ObjectKeyFromObject(&roles.Items[i])
	}
	return requests
}
