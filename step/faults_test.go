package step_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/berth-dev/berth/step"
)

// fault is what becomes of one write: whether it is applied, and what the
// writer is told.
type fault struct {
	applied bool
	err     error
}

var (
	refused  = apierrors.NewInternalError(errors.New("the store is down"))
	timedOut = apierrors.NewTimeoutError("the answer was lost", 1)
	conflict = apierrors.NewConflict(schema.GroupResource{Resource: "any"}, "orders", errors.New("somebody was faster"))
	faults   = map[string]fault{
		"is refused":                                 {err: refused},
		"loses a race":                               {err: conflict},
		"times out and is not applied":               {err: timedOut},
		"times out although it is applied":           {applied: true, err: timedOut},
		"is told to conflict although it is applied": {applied: true, err: conflict},
	}
)

// saboteur lets the write of number at meet the fault, and counts all writes.
type saboteur struct {
	at, n int
	fault fault
}

func (s *saboteur) meet(write func() error) error {
	s.n++
	if s.n != s.at {
		return write()
	}
	if s.fault.applied {
		if err := write(); err != nil {
			return err
		}
	}
	return s.fault.err
}

func (s *saboteur) wrap(c client.WithWatch) client.WithWatch {
	return interceptor.NewClient(c, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return s.meet(func() error { return c.Create(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return s.meet(func() error { return c.Delete(ctx, o, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			return s.meet(func() error { return c.Patch(ctx, o, p, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return s.meet(func() error { return c.SubResource(sub).Patch(ctx, o, p, opts...) })
		},
	})
}

// story is a claim whose first step makes a ConfigMap and whose second needs
// it; its deletion removes the ConfigMap.
func story(t *testing.T, s *saboteur) *rig {
	t.Helper()
	r := newRig(t)
	r.Client = s.wrap(r.server)
	paper := func(c *claim) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Name}}
	}
	r.Plan.Up = []step.Step[*claim]{
		do("Made", func(ctx context.Context, c *claim) step.Outcome {
			err := r.Client.Create(ctx, paper(c))
			if err != nil && !apierrors.IsAlreadyExists(err) {
				return step.Failed("NotMade", err)
			}
			c.Status.Database = "made"
			return step.Done()
		}),
		do("Found", func(ctx context.Context, c *claim) step.Outcome {
			if err := r.server.Get(ctx, client.ObjectKeyFromObject(c), paper(c)); err != nil {
				return step.Failed("NotFound", err)
			}
			return step.Done()
		}),
	}
	r.Plan.Down = []step.Step[*claim]{do("Removed", func(ctx context.Context, c *claim) step.Outcome {
		if err := client.IgnoreNotFound(r.Client.Delete(ctx, paper(c))); err != nil {
			return step.Failed("NotRemoved", err)
		}
		return step.Done()
	})}
	return r
}

// converge runs passes until one has nothing left to do.
func converge(t *testing.T, r *rig) {
	t.Helper()
	for range 6 {
		c := &claim{}
		if err := r.server.Get(t.Context(), r.key, c); apierrors.IsNotFound(err) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		result, err := r.Reconcile(t.Context(), c)
		if err == nil && result.RequeueAfter == 0 {
			return
		}
		if err == nil && result.RequeueAfter > time.Second {
			t.Fatalf("a fault was answered by a wait of %s", result.RequeueAfter)
		}
	}
	t.Fatal("six passes did not converge")
}

// tell is the claim in words, without what differs from run to run.
func tell(c *claim) string {
	return fmt.Sprint(c.Generation, c.Finalizers, c.Status.ObservedGeneration, c.Status.Database, shorten(c))
}

func TestAnyFaultOfAnyWriteConverges(t *testing.T) {
	t.Parallel()
	smooth := &saboteur{}
	r := story(t, smooth)
	converge(t, r)
	want := tell(r.read())
	up := smooth.n
	r.remove()
	converge(t, r)
	down := smooth.n - up
	if up != 3 || down != 2 {
		t.Fatalf("the story has %d and %d writes, want finalizer, ConfigMap, status; ConfigMap, finalizer", up, down)
	}
	for name, f := range faults {
		for at := 1; at <= up+down; at++ {
			t.Run(fmt.Sprintf("write %d %s", at, name), func(t *testing.T) {
				t.Parallel()
				s := &saboteur{at: at, fault: f}
				if at > up {
					s.at = 0
				}
				r := story(t, s)
				converge(t, r)
				if diff := cmp.Diff(want, tell(r.read())); diff != "" {
					t.Errorf("the object (-smooth +faulty):\n%s", diff)
				}
				if at > up {
					s.at = s.n + at - up
				}
				r.remove()
				converge(t, r)
				for _, o := range []client.Object{&claim{}, &corev1.ConfigMap{}} {
					if err := r.server.Get(t.Context(), r.key, o); !apierrors.IsNotFound(err) {
						t.Errorf("the %T is still there: %v", o, err)
					}
				}
				if s.at == 0 || s.n < s.at {
					t.Errorf("%d writes never met the fault at %d", s.n, s.at)
				}
				ready := 0
				for _, event := range r.events.take() {
					if strings.HasPrefix(event, "Normal Ready") {
						ready++
					}
				}
				if ready > 1 {
					t.Errorf("the claim told %d times that it became Ready", ready)
				}
			})
		}
	}
}
