package step_test

import (
	"context"
	"sync"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/step"
)

func request(name string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "default", Name: name}}
}

// passes counts the passes over each claim of one controller.
type passes struct {
	mu    sync.Mutex
	count map[string]int
}

func (p *passes) add(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count[name]++
}

func (p *passes) of(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count[name]
}

// startController runs a real manager with one worker over one namespace.
func startController(t *testing.T, namespace string, filter ...builder.ForOption) *passes {
	t.Helper()
	mgr, err := ctrl.NewManager(testkit.APIServer(t), ctrl.Options{
		Scheme: scheme(t), Metrics: server.Options{BindAddress: "0"},
		Cache: cache.Options{DefaultNamespaces: map[string]cache.Config{namespace: {}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := &passes{count: map[string]int{}}
	r := &step.Reconciler[*claim, *claim]{
		Client: mgr.GetClient(), Events: mgr.GetEventRecorder("berth"), Clock: clock.RealClock{},
		Plan: plan{Kind: kind, Finalizer: finalizer, Root: v1alpha1.Ready,
			Open: func(_ context.Context, c *claim) (*claim, error) { seen.add(c.Name); return c, nil },
			Up:   []step.Step[*claim]{do("First", always(step.Done()))}},
	}
	err = ctrl.NewControllerManagedBy(mgr).Named("claims").For(&claim{}, filter...).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1, SkipNameValidation: ptr.To(true),
			RateLimiter: step.Backoff()}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), r))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return seen
}

// await returns once holds does.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick, deadline := time.NewTicker(10*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited 20 s for %s", what)
		}
	}
}

// settled makes a claim, and returns when it and then a later one are Ready.
// One worker takes claims in the order their changes arrive, so whatever the
// first claim's own status write caused has happened by then.
func settled(t *testing.T, c client.Client, namespace, name string) {
	t.Helper()
	for _, name := range []string{name, name + "-later", name + "-last"} {
		made := &claim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		if err := c.Create(t.Context(), made); err != nil {
			t.Fatal(err)
		}
		await(t, name+" to be Ready", func() bool {
			err := c.Get(t.Context(), client.ObjectKeyFromObject(made), made)
			return err == nil && kstatus(made) == "Current"
		})
	}
}

func TestStatusWritesDoNotWakeTheController(t *testing.T) {
	t.Parallel()
	c := testkit.Client(t, scheme(t))
	namespace := testkit.Namespace(t)
	seen := startController(t, namespace, builder.WithPredicates(predicate.GenerationChangedPredicate{}))
	settled(t, c, namespace, "orders")
	if got := seen.of("orders"); got != 1 {
		t.Errorf("%d passes made the claim Ready, want 1", got)
	}
	orders := &claim{}
	key := client.ObjectKey{Namespace: namespace, Name: "orders"}
	if err := c.Get(t.Context(), key, orders); err != nil {
		t.Fatal(err)
	}
	orders.Spec.AppID = "shop"
	if err := c.Update(t.Context(), orders); err != nil {
		t.Fatal(err)
	}
	await(t, "the edit to be observed", func() bool {
		return c.Get(t.Context(), key, orders) == nil && orders.Status.ObservedGeneration == 2
	})
	settled(t, c, namespace, "barrier")
	if got := seen.of("orders"); got != 2 {
		t.Errorf("%d passes after one edit, want 2", got)
	}
}

// The counterpart proves that the count above can see a wake-up.
func TestWithoutTheFilterStatusWritesWake(t *testing.T) {
	t.Parallel()
	c := testkit.Client(t, scheme(t))
	namespace := testkit.Namespace(t)
	seen := startController(t, namespace)
	settled(t, c, namespace, "orders")
	if got := seen.of("orders"); got < 2 {
		t.Errorf("%d passes, so the count does not see status writes", got)
	}
}

func TestEventsReachTheAPI(t *testing.T) {
	t.Parallel()
	c := testkit.Client(t, scheme(t))
	namespace := testkit.Namespace(t)
	startController(t, namespace, builder.WithPredicates(predicate.GenerationChangedPredicate{}))
	settled(t, c, namespace, "orders")
	await(t, "the event of orders", func() bool {
		list := &eventsv1.EventList{}
		if err := c.List(t.Context(), list, client.InNamespace(namespace)); err != nil {
			t.Error(err)
		}
		for _, e := range list.Items {
			if e.Regarding.Name == "orders" && e.Reason == "Ready" && e.Note == "All steps hold." {
				return true
			}
		}
		return false
	})
}
