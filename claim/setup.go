package claim

import (
	"context"
	"strings"

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

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/step"
)

const (
	classIndex  = "spec.class"
	serverIndex = "status.server.id"
	backlog     = 64 // changes of servers told before the controllers run
)

// SetUp makes mgr keep DatabaseClaims and DatabaseClasses, workers passes at once.
func (w *Worker) SetUp(ctx context.Context, mgr ctrl.Manager, workers int) error {
	index := mgr.GetFieldIndexer()
	if err := index.IndexField(ctx, &v1alpha1.DatabaseClaim{}, classIndex, func(o client.Object) []string {
		return []string{o.(*v1alpha1.DatabaseClaim).Spec.Class}
	}); err != nil {
		return err
	}
	if err := index.IndexField(ctx, &v1alpha1.DatabaseClaim{}, serverIndex, serversOf); err != nil {
		return err
	}
	claims, classes := make(chan event.GenericEvent, backlog), make(chan event.GenericEvent, backlog)
	w.onChange(ctx, claims, classes)
	changed := builder.WithPredicates(predicate.GenerationChangedPredicate{})
	err := ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.DatabaseClaim{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, moved))).
		Watches(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(ownerOf), builder.WithPredicates(notMade)).
		Watches(&v1alpha1.DatabaseClass{}, handler.EnqueueRequestsFromMapFunc(w.claimsOf), changed).
		WatchesRawSource(source.Channel(claims, handler.EnqueueRequestsFromMapFunc(w.claimsOn))).
		WatchesRawSource(source.Channel(w.ReadersChanged(ctx, naming.ClaimKind), &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, RateLimiter: step.Backoff()}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), &step.Reconciler[*v1alpha1.DatabaseClaim, *scope]{
			Client: mgr.GetClient(), Events: mgr.GetEventRecorder("berth"), Clock: w.Clock, Plan: w.Plan(),
		}))
	if err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.DatabaseClass{}, changed).
		Watches(&v1alpha1.DatabaseClaim{}, handler.EnqueueRequestsFromMapFunc(classOf), builder.WithPredicates(predicate.Funcs{
			CreateFunc: func(event.CreateEvent) bool { return false },
			UpdateFunc: func(event.UpdateEvent) bool { return false },
		})).
		WatchesRawSource(source.Channel(classes, handler.EnqueueRequestsFromMapFunc(w.classesOn))).
		WithOptions(controller.Options{RateLimiter: step.Backoff()}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), &step.Reconciler[*v1alpha1.DatabaseClass, classScope]{
			Client: mgr.GetClient(), Events: mgr.GetEventRecorder("berth"), Clock: w.Clock, Plan: w.ClassPlan(),
		}))
}

// moved passes a claim that a migration has put on another server, so that its
// Secret follows at once. No step of a claim's own changes that. Where the spec
// asks for another version yet, its change is on the way and passes by itself.
var moved = predicate.Funcs{
	CreateFunc: func(event.CreateEvent) bool { return false }, DeleteFunc: func(event.DeleteEvent) bool { return false },
	GenericFunc: func(event.GenericEvent) bool { return false },
	UpdateFunc: func(e event.UpdateEvent) bool {
		claim := e.ObjectNew.(*v1alpha1.DatabaseClaim)
		before, after := e.ObjectOld.(*v1alpha1.DatabaseClaim).Status.Server, claim.Status.Server
		if before == nil || after == nil || before.ID == after.ID {
			return false
		}
		wanted, _, _ := strings.Cut(claim.Spec.DBVersion, ".")
		has, _, _ := strings.Cut(after.Version, ".")
		return wanted == "" || wanted == has
	},
}

// serversOf are the servers whose change may matter to a claim: the one it is
// on, and those it would be given.
func serversOf(o client.Object) []string {
	claim := o.(*v1alpha1.DatabaseClaim)
	ids := []string{naming.SharedServer(claim.Spec.Class), naming.DedicatedServer(claim.Namespace, claim.Name)}
	if claim.Status.Server != nil {
		ids = append(ids, claim.Status.Server.ID)
	}
	return ids
}

// notMade drops the news that a Secret was made: the claim made it, and may not
// see its own status yet when such news wakes it.
var notMade = predicate.Funcs{CreateFunc: func(event.CreateEvent) bool { return false }}

// ownerOf is the claim that a Secret of berth was written for.
func ownerOf(_ context.Context, o client.Object) []reconcile.Request {
	if o.GetLabels()[naming.KindLabel] != naming.ClaimKind {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetLabels()[naming.OwnerLabel]}}}
}

func classOf(_ context.Context, o client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: o.(*v1alpha1.DatabaseClaim).Spec.Class}}}
}

func (w *Worker) claimsOf(ctx context.Context, class client.Object) []reconcile.Request {
	return w.claimsBy(ctx, classIndex, class.GetName())
}

func (w *Worker) claimsBy(ctx context.Context, index, value string) []reconcile.Request {
	claims := &v1alpha1.DatabaseClaimList{}
	if err := w.Client.List(ctx, claims, client.MatchingFields{index: value}); err != nil {
		return nil // the cache is closing; a new process looks at every claim
	}
	requests := make([]reconcile.Request, len(claims.Items))
	for i := range claims.Items {
		requests[i].NamespacedName = client.ObjectKeyFromObject(&claims.Items[i])
	}
	return requests
}

// onChange tells every controller of mgr when a backend says that a server changed.
func (w *Worker) onChange(ctx context.Context, listeners ...chan event.GenericEvent) {
	for _, b := range w.Finder.Backends {
		watched, ok := b.(backend.Watched)
		if !ok {
			continue
		}
		watched.OnChange(func(id string) {
			server := &v1alpha1.DatabaseClaim{Status: v1alpha1.DatabaseClaimStatus{Server: &v1alpha1.ServerStatus{ID: id}}}
			for _, listener := range listeners {
				select {
				case listener <- event.GenericEvent{Object: server}:
				case <-ctx.Done():
				}
			}
		})
	}
}

func serverOf(o client.Object) string { return o.(*v1alpha1.DatabaseClaim).Status.Server.ID }

func (w *Worker) claimsOn(ctx context.Context, o client.Object) []reconcile.Request {
	return w.claimsBy(ctx, serverIndex, serverOf(o))
}

func (w *Worker) classesOn(ctx context.Context, o client.Object) []reconcile.Request {
	classes := &v1alpha1.DatabaseClassList{}
	if err := w.Client.List(ctx, classes); err != nil {
		return nil // as in claimsBy
	}
	var requests []reconcile.Request
	for i := range classes.Items {
		if naming.SharedServer(classes.Items[i].Name) == serverOf(o) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&classes.Items[i])})
		}
	}
	return requests
}
