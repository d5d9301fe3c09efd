package step_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/step"
)

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard())
	testkit.Main(m)
}

const (
	finalizer = "test.berth.dev/release"
	kind      = "DatabaseClaim"
)

type (
	claim = v1alpha1.DatabaseClaim
	plan  = step.Plan[*claim, *claim]
	run   = func(context.Context, *claim) step.Outcome
)

var start = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func scheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s)); err != nil {
		t.Fatal(err)
	}
	return s
}

// rig runs passes of a plan over one claim that a real API server keeps.
type rig struct {
	*step.Reconciler[*claim, *claim]
	t      testing.TB
	key    client.ObjectKey
	server client.WithWatch // sees the API server without faults or counts
	clock  *clocktesting.FakePassiveClock
	events *recorder
	writes *writes
}

func newRig(t testing.TB, up ...step.Step[*claim]) *rig {
	t.Helper()
	config := rest.CopyConfig(testkit.APIServer(t))
	server, err := client.NewWithWatch(config, client.Options{Scheme: scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	counted := &writes{}
	config = rest.CopyConfig(config)
	config.Wrap(counted.wrap)
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	clock := clocktesting.NewFakePassiveClock(start)
	r := &rig{t: t, server: server, clock: clock, events: &recorder{}, writes: counted}
	r.Reconciler = &step.Reconciler[*claim, *claim]{
		Client: c, Clock: clock, Events: r.events,
		Plan: plan{Kind: kind, Finalizer: finalizer, Root: v1alpha1.Ready, Up: up,
			Open: func(_ context.Context, c *claim) (*claim, error) { return c, nil }},
	}
	object := &claim{ObjectMeta: metav1.ObjectMeta{Namespace: testkit.Namespace(t), Name: "orders"}}
	if err := server.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	r.key = client.ObjectKeyFromObject(object)
	return r
}

// read is the claim as the API server keeps it.
func (r *rig) read() *claim {
	r.t.Helper()
	c := &claim{}
	if err := r.server.Get(r.t.Context(), r.key, c); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// pass reconciles the newest claim once.
func (r *rig) pass() (ctrl.Result, error) {
	r.t.Helper()
	return r.Reconcile(r.t.Context(), r.read())
}

func (r *rig) mustPass() ctrl.Result {
	r.t.Helper()
	result, err := r.pass()
	if err != nil {
		r.t.Fatal(err)
	}
	return result
}

// edit changes the spec, and so the generation.
func (r *rig) edit() {
	r.t.Helper()
	c := r.read()
	c.Spec.AppID += "x"
	if err := r.server.Update(r.t.Context(), c); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) remove() {
	r.t.Helper()
	if err := r.server.Delete(r.t.Context(), r.read()); err != nil {
		r.t.Fatal(err)
	}
}

// conditions are the claim's, each in short: status, reason, message, generation.
func (r *rig) conditions() map[string]string {
	r.t.Helper()
	return shorten(r.read())
}

func shorten(c *claim) map[string]string {
	all := map[string]string{}
	for _, c := range c.Status.Conditions {
		text := fmt.Sprintf("%s %s g%d", c.Status, c.Reason, c.ObservedGeneration)
		if c.Message != "" {
			text += " " + c.Message
		}
		all[c.Type] = text
	}
	return all
}

func (r *rig) condition(name string) metav1.Condition {
	r.t.Helper()
	c := meta.FindStatusCondition(r.read().Status.Conditions, name)
	if c == nil {
		r.t.Fatalf("there is no condition %s", name)
	}
	return *c
}

func always(o step.Outcome) run {
	return func(context.Context, *claim) step.Outcome { return o }
}

// following lets a test change what a step says between passes.
func following(o *step.Outcome) run {
	return func(context.Context, *claim) step.Outcome { return *o }
}

func do(condition string, r run) step.Step[*claim] { return step.Do(condition, r) }

// recorder keeps events in words.
type recorder struct {
	mu   sync.Mutex
	list []string
}

func (r *recorder) Eventf(_, _ runtime.Object, kind, reason, _, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, fmt.Sprintf("%s %s: %s", kind, reason, fmt.Sprintf(format, args...)))
}

// take returns the events since it was last asked.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.list
	r.list = nil
	return list
}

// writes counts the requests that change something, by method and path's end.
type writes struct {
	mu   sync.Mutex
	list []string
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (w *writes) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Method != http.MethodGet {
			w.mu.Lock()
			w.list = append(w.list, r.Method+" "+lastPart(r.URL.Path))
			w.mu.Unlock()
		}
		return next.RoundTrip(r)
	})
}

func (w *writes) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.list
	w.list = nil
	return list
}

func lastPart(path string) string { return path[strings.LastIndex(path, "/")+1:] }
