package webhook_test

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/webhook"
)

// short has every test run while certificates and authorities are renewed.
var short = webhook.Lifetimes{Authority: 24 * time.Second, Leaf: 6 * time.Second, Settle: 2 * time.Second}

// calls counts what the webhook was asked, by namespace, from its log.
type calls struct {
	slog.Handler
	mu    sync.Mutex
	asked map[string]int
}

func (c *calls) Enabled(context.Context, slog.Level) bool { return true }

func (c *calls) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if r.Message == "answered" && a.Key == "namespace" {
			c.mu.Lock()
			c.asked[a.Value.String()]++
			c.mu.Unlock()
		}
		return true
	})
	return nil
}

func (c *calls) of(namespace string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[namespace]
}

var shared struct {
	sync.Once
	calls *calls
}

func newAPI(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve has the API server ask a webhook of this process, which all tests
// share: a registration concerns every pod of the cluster. It ends with the process.
func serve(t *testing.T) (client.Client, *calls) {
	t.Helper()
	api := newAPI(t, testkit.APIServer(t))
	shared.Do(func() {
		shared.calls = &calls{Handler: slog.DiscardHandler, asked: map[string]int{}}
		makeNamespace(t, api, webhook.Namespace)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ready := make(chan struct{})
		ended := make(chan error, 1)
		go func() {
			ended <- webhook.Serve(context.Background(), webhook.Options{
				API: api, Listener: listener, Image: "berth:1", Local: true, Lifetimes: short, Interval: 200 * time.Millisecond,
				Log: slog.New(shared.calls), Ready: func() { close(ready) },
			})
		}()
		select {
		case <-ready:
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(30 * time.Second):
			t.Fatal("the webhook is not ready")
		}
	})
	return api, shared.calls
}

func makeNamespace(t *testing.T, api client.Client, name string) {
	t.Helper()
	namespace := &corev1.Namespace{}
	namespace.Name = name
	if err := api.Create(t.Context(), namespace); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// create makes p and returns it as the API server keeps it.
func create(t *testing.T, api client.Client, namespace string, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	p.Namespace, p.GenerateName = namespace, "pod-"
	if err := api.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("waiting for %s", what)
		case <-tick.C:
		}
	}
}

// warnings are what the API server tells whoever makes an object.
type warnings struct {
	mu   sync.Mutex
	said []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, text)
}

func (w *warnings) list() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.said)
}
