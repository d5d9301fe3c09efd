package warehouse

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/step"
)

const (
	databaseIndex = "database" // of an Org: the name it wants
	secretIndex   = "secret"   // of an Org: the Secrets of its users
	backlog       = 256        // logins that ended before the controller runs
)

// SetUp makes mgr keep Warehouses and Orgs, workers passes at once.
func (w *Worker) SetUp(ctx context.Context, mgr ctrl.Manager, workers int) error {
	if err := index(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	ended := make(chan event.GenericEvent, backlog)
	w.watched = map[string]bool{}
	w.cache = mgr.GetCache()
	w.prober = newProber(w.Clock, func(org string) {
		select {
		case ended <- event.GenericEvent{Object: &v1alpha1.Warehouse{ObjectMeta: metav1.ObjectMeta{Name: org}}}:
		case <-ctx.Done():
		}
	})
	changed := builder.WithPredicates(predicate.GenerationChangedPredicate{})
	var err error
	w.controller, err = ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.Warehouse{}, changed).
		Watches(&v1alpha1.Org{}, &handler.EnqueueRequestForObject{}). // of the same name; its conditions count
		WatchesRawSource(source.Channel(ended, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, RateLimiter: step.Backoff()}).
		Build(reconcile.AsReconciler(mgr.GetClient(), &step.Reconciler[*v1alpha1.Warehouse, *scope]{
			Client: mgr.GetClient(), Events: mgr.GetEventRecorder("berth"), Clock: w.Clock, Plan: w.Plan(),
		}))
	if err != nil {
		return err
	}
	return w.setUpOrgs(mgr, changed)
}

// watch has changes of what a provider made wake their warehouses. It is called
// once something was read there: a watch on what is not installed would fail.
func (w *Worker) watch(name string, p Provider) {
	watched, ok := p.(Watched)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watched[name] {
		return
	}
	if err := w.controller.Watch(watched.Source(w.cache, handler.EnqueueRequestsFromMapFunc(ownerOf))); err != nil {
		w.Log.Error("watching what a provider made", "provider", name, "error", err)
		return // looked at again by the next pass
	}
	w.watched[name] = true
}

// ownerOf is the warehouse that an object was made for: the one its label
// names, or, of one that berth did not make, the one of its own name.
func ownerOf(_ context.Context, o client.Object) []reconcile.Request {
	name := o.GetName()
	if labels := o.GetLabels(); labels[naming.KindLabel] == naming.WarehouseKind {
		name = labels[naming.OwnerLabel]
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: name}}}
}

func index(ctx context.Context, indexer client.FieldIndexer) error {
	for field, of := range map[string]func(*v1alpha1.Org) []string{
		databaseIndex: func(org *v1alpha1.Org) []string { return []string{org.Database()} },
		secretIndex:   secretsOf,
	} {
		if err := indexer.IndexField(ctx, &v1alpha1.Org{}, field, func(o client.Object) []string { return of(o.(*v1alpha1.Org)) }); err != nil {
			return fmt.Errorf("indexing orgs by %s: %w", field, err)
		}
	}
	return nil
}

func (w *Worker) orgsBy(ctx context.Context, field, value string) []v1alpha1.Org {
	orgs := &v1alpha1.OrgList{}
	if err := w.Client.List(ctx, orgs, client.MatchingFields{field: value}); err != nil {
		return nil // the cache is closing; a new process looks at every org
	}
	return orgs.Items
}
