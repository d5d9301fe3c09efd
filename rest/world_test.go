package rest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientrest "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	worldkit "github.com/berth-dev/berth/internal/testkit/world"
	"github.com/berth-dev/berth/rest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	secret   = "the-internal-secret"
	previous = "the-secret-before"
	readOnly = "the-read-only-secret"
)

// world is the API over a real API server. The test plays the controllers.
type world struct {
	client.Client
	t         *testing.T
	Namespace string
	URL       string
	Log       *log
	options   rest.Options
}

// log is what the API wrote down.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newWorld(t *testing.T, change func(*world)) *world {
	t.Helper()
	access := clientrest.CopyConfig(testkit.APIServer(t))
	access.QPS = -1
	w := &world{Client: testkit.Client(t, worldkit.Scheme()), t: t, Namespace: testkit.Namespace(t), Log: &log{}}
	w.options = rest.Options{
		Live: w.Client, Secrets: rest.Secrets{Internal: []string{secret, previous}, ReadOnly: readOnly},
		Log: slog.New(slog.NewTextHandler(w.Log, nil)), Namespace: w.Namespace, Host: "warehouse.example.org", Port: 5432,
		Composite: schema.GroupVersionKind{Group: "k8s.posthog.com", Version: "v1alpha1", Kind: "Duckling"}, CompositeNamespace: w.Namespace,
		Limits: rest.Limits{Failures: 10_000},
	}
	objects, err := cache.New(access, cache.Options{Scheme: worldkit.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	w.options.Cache = objects
	if change != nil {
		change(w)
	}
	var work sync.WaitGroup
	work.Go(func() {
		if err := objects.Start(t.Context()); err != nil {
			t.Errorf("the cache ended: %v", err)
		}
	})
	handler, err := rest.New(t.Context(), w.options)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	w.URL = server.URL
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		work.Wait()
	})
	return w
}

// id is an org's, unlike those of other tests.
func (w *world) id(name string) string { return name + "-" + strings.TrimPrefix(w.Namespace, "test-") }

// answer is what came back.
type answer struct {
	Status int
	Header http.Header
	Text   string
}

func (a answer) value(t *testing.T, key string) any {
	t.Helper()
	values := map[string]any{}
	if err := json.Unmarshal([]byte(a.Text), &values); err != nil {
		t.Fatalf("%q is not JSON: %v", a.Text, err)
	}
	return values[key]
}

// ask sends a request with the internal secret; headers are name: value.
func (w *world) ask(method, path, body string, headers ...string) answer {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.t.Context(), method, w.URL+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	request.Header.Set("X-Berth-Internal-Secret", secret)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if value == "" {
			request.Header.Del(name)
		} else {
			request.Header.Set(name, value)
		}
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, strings.TrimSpace(string(text))}
}

// says checks status and body; a body that is JSON is compared as such.
func (w *world) says(got answer, status int, body string) {
	w.t.Helper()
	var have, want any
	if json.Unmarshal([]byte(got.Text), &have) != nil || json.Unmarshal([]byte(body), &want) != nil {
		have, want = got.Text, body
	}
	if diff := cmp.Diff(want, have); got.Status != status || diff != "" {
		w.t.Errorf("the answer is %d, want %d: %s", got.Status, status, diff)
	}
}

// becomes writes a warehouse's status, as the controller does.
func (w *world) becomes(id string, change func(*v1alpha1.Warehouse)) {
	w.t.Helper()
	o := &v1alpha1.Warehouse{}
	if err := w.Get(w.t.Context(), client.ObjectKey{Name: id}, o); err != nil {
		w.t.Fatal(err)
	}
	now := metav1.NewTime(time.Now())
	o.Status.Attempt, o.Status.BegunAt = o.Spec.Attempt, &now
	change(o)
	if err := w.Status().Update(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
	w.until("the cache to have it", func() bool {
		return w.ask("GET", "/api/v1/orgs/"+id+"/warehouse/status", "").value(w.t, "state") == string(o.State())
	})
}

func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-deadline:
			w.t.Fatalf("waiting for %s", what)
		case <-tick.C:
		}
	}
}

var now = metav1.NewTime(time.Now().Truncate(time.Second))

func provisioning(o *v1alpha1.Warehouse) {
	o.Status.ProvisioningStartedAt, o.Status.ReadyAt, o.Status.FailedAt = &now, nil, nil
}

func ready(o *v1alpha1.Warehouse) {
	o.Status.ProvisioningStartedAt, o.Status.ReadyAt, o.Status.FailedAt = &now, &now, nil
}

func failed(o *v1alpha1.Warehouse) {
	o.Status.ProvisioningStartedAt, o.Status.ReadyAt, o.Status.FailedAt = &now, nil, &now
}

func released(o *v1alpha1.Warehouse) {
	o.Status.Conditions = []metav1.Condition{{Type: v1alpha1.Wanted, Status: "False", Reason: v1alpha1.ReasonDeleted, ObservedGeneration: o.Generation, LastTransitionTime: now}}
}

const aurora = `{"metadata_store":{"type":"aurora","aurora":{"min_acu":0.5,"max_acu":2}}}`

func conditions(status string, kinds ...string) (list []metav1.Condition) {
	for _, kind := range kinds {
		list = append(list, metav1.Condition{Type: kind, Status: metav1.ConditionStatus(status), Reason: "Test", Message: "Bucket acme: AccessDenied", LastTransitionTime: now})
	}
	return list
}
