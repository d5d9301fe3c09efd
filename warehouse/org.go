package warehouse

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/step"
)

type orgScope struct{ org *v1alpha1.Org }

// OrgPlan gives an Org its database name, and keeps it until its warehouse is gone.
func (w *Worker) OrgPlan() step.Plan[*v1alpha1.Org, orgScope] {
	return step.Plan[*v1alpha1.Org, orgScope]{
		Kind:      "Org",
		Finalizer: naming.Finalizer,
		Root:      v1alpha1.Ready,
		Open:      func(_ context.Context, org *v1alpha1.Org) (orgScope, error) { return orgScope{org}, nil },
		Up: []step.Step[orgScope]{ // without deadlines: only people can change the answers
			step.Do(v1alpha1.NameHeld, w.holdName),
			step.Do(v1alpha1.UsersReady, w.checkUsers),
		},
		Down: []step.Step[orgScope]{step.Do(v1alpha1.Emptied, w.empty)},
	}
}

// holdName lets the oldest of the orgs that want a database name have it.
func (w *Worker) holdName(ctx context.Context, s orgScope) step.Outcome {
	for _, other := range w.orgsBy(ctx, databaseIndex, s.org.Database()) {
		if other.UID != s.org.UID && older(&other, s.org) {
			return step.Blocked("DatabaseNameTaken", "Org %s has the database name %s; set another spec.databaseName.", other.Name, s.org.Database())
		}
	}
	return step.Done()
}

// older is a total order, so that of two orgs made in one second one has the name.
func older(a, b *v1alpha1.Org) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

// checkUsers looks at the Secrets of the users, never at more than their keys.
func (w *Worker) checkUsers(ctx context.Context, s orgScope) step.Outcome {
	secrets := map[string]*corev1.Secret{}
	for _, user := range s.org.Spec.Users {
		ref := user.PasswordSecret
		if ref.Namespace != "" && ref.Namespace != w.Namespace || !naming.OwnedBy(s.org.Name, ref.Name) {
			return step.Blocked("SecretNotTheirs", "User %s: Secret %s must be in namespace %s, with a name that begins with %s-.", user.Name, ref.Name, w.Namespace, s.org.Name)
		}
		secret, read := secrets[ref.Name]
		if !read {
			secret = &corev1.Secret{}
			err := w.Live.Get(ctx, client.ObjectKey{Namespace: w.Namespace, Name: ref.Name}, secret)
			if apierrors.IsNotFound(err) {
				return step.Blocked("SecretMissing", "User %s: there is no Secret %s in namespace %s.", user.Name, ref.Name, w.Namespace)
			} else if err != nil {
				return step.Failed("SecretUnreadable", fmt.Errorf("reading Secret %s: %w", ref.Name, err))
			}
			secrets[ref.Name] = secret
		}
		if len(secret.Data[ref.Key]) == 0 {
			return step.Blocked("SecretMalformed", "User %s: Secret %s has no key %s with a bcrypt hash.", user.Name, ref.Name, ref.Key)
		}
	}
	return step.Done()
}

// empty takes the record of a deprovisioned warehouse away, and waits for any other.
func (w *Worker) empty(ctx context.Context, s orgScope) step.Outcome {
	warehouse := &v1alpha1.Warehouse{}
	err := w.Live.Get(ctx, client.ObjectKey{Name: s.org.Name}, warehouse)
	switch {
	case apierrors.IsNotFound(err):
		return step.Done()
	case err != nil:
		return step.Failed("WarehouseUnreadable", fmt.Errorf("reading warehouse %s: %w", s.org.Name, err))
	case warehouse.State() != v1alpha1.StateDeleted:
		return step.Wait(0, "WarehouseExists", "Its warehouse is %s. Deprovision it, or delete it; until then the org stays.", warehouse.State())
	}
	if err := client.IgnoreNotFound(w.Client.Delete(ctx, warehouse, client.Preconditions{UID: &warehouse.UID, ResourceVersion: &warehouse.ResourceVersion})); err != nil {
		return step.Failed("WarehouseUnreadable", fmt.Errorf("deleting the record of warehouse %s: %w", s.org.Name, err))
	}
	return step.Wait(0, "WarehouseExists", "The record of its warehouse is on its way out.")
}

func (w *Worker) setUpOrgs(mgr ctrl.Manager, changed builder.Predicates) error {
	return ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.Org{}, changed).
		Watches(&v1alpha1.Org{}, handler.EnqueueRequestsFromMapFunc(w.namesakes), changed).
		Watches(&v1alpha1.Warehouse{}, &handler.EnqueueRequestForObject{}). // of the same name; its conditions count
		Watches(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(w.usersOf)).
		WithOptions(controller.Options{RateLimiter: step.Backoff()}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), &step.Reconciler[*v1alpha1.Org, orgScope]{
			Client: mgr.GetClient(), Events: mgr.GetEventRecorder("berth"), Clock: w.Clock, Plan: w.OrgPlan(),
		}))
}

// namesakes are the orgs that may get or lose a database name with a change of one.
func (w *Worker) namesakes(ctx context.Context, o client.Object) []reconcile.Request {
	return requests(w.orgsBy(ctx, databaseIndex, o.(*v1alpha1.Org).Database()))
}

func (w *Worker) usersOf(ctx context.Context, o client.Object) []reconcile.Request {
	if o.GetNamespace() != w.Namespace {
		return nil
	}
	return requests(w.orgsBy(ctx, secretIndex, o.GetName()))
}

func requests(orgs []v1alpha1.Org) []reconcile.Request {
	list := make([]reconcile.Request, len(orgs))
	for i := range orgs {
		list[i].NamespacedName = types.NamespacedName{Name: orgs[i].Name}
	}
	return list
}

func secretsOf(org *v1alpha1.Org) []string {
	names := make([]string, len(org.Spec.Users))
	for i, user := range org.Spec.Users {
		names[i] = user.PasswordSecret.Name
	}
	return names
}
