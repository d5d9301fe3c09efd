package duckling_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/dev"
	"github.com/berth-dev/berth/internal/testkit"
	worldkit "github.com/berth-dev/berth/internal/testkit/world"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/warehouse"
	"github.com/berth-dev/berth/warehouse/duckling"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const patience = 60 * time.Second

var install sync.Once

// world is a namespace of composites, and controllers that keep the warehouses
// which carry its label. The test plays Crossplane.
type world struct {
	client.Client
	t         *testing.T
	Namespace string // of composites and of Secrets
	Provider  *duckling.Provider
	Worker    *warehouse.Worker
	access    *rest.Config
}

const worldLabel = "testkit.berth.dev/world"

func newWorld(t *testing.T, change func(*world)) *world {
	t.Helper()
	access := rest.CopyConfig(testkit.APIServer(t))
	access.QPS = -1
	install.Do(func() {
		for _, definitions := range []fs.FS{os.DirFS("testdata"), definition(t, "Duckling", "Duckling")} {
			if err := dev.InstallCRDs(t.Context(), access, definitions); err != nil {
				t.Fatal(err)
			}
		}
	})
	ctrl.SetLogger(logr.FromSlogHandler(slog.DiscardHandler))
	w := &world{Client: testkit.Client(t, worldkit.Scheme()), t: t, Namespace: testkit.Namespace(t), access: access}
	w.Provider = &duckling.Provider{Kind: duckling.Kind, Namespace: w.Namespace, Secrets: w.Namespace}
	w.Worker = &warehouse.Worker{
		Clock: clock.RealClock{}, Namespace: w.Namespace, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Budget:    warehouse.Budget{Retry: 200 * time.Millisecond},
		Providers: map[string]warehouse.Provider{"duckling": w.Provider},
	}
	if change != nil {
		change(w)
	}
	w.run(t.Context())
	return w
}

func (w *world) run(ctx context.Context) {
	w.t.Helper()
	mine := cache.ByObject{Label: labels.SelectorFromSet(labels.Set{worldLabel: w.Namespace})}
	mgr, err := ctrl.NewManager(w.access, ctrl.Options{
		Scheme: worldkit.Scheme(), Logger: logr.FromSlogHandler(slog.DiscardHandler), Metrics: server.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: ptr.To(true)},
		Cache: cache.Options{
			DefaultNamespaces: map[string]cache.Config{w.Namespace: {}},
			ByObject:          map[client.Object]cache.ByObject{&v1alpha1.Org{}: mine, &v1alpha1.Warehouse{}: mine},
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Provider.Client, w.Provider.Live = mgr.GetClient(), mgr.GetAPIReader()
	w.Worker.Client, w.Worker.Live = mgr.GetClient(), mgr.GetAPIReader()
	ctx, cancel := context.WithCancel(ctx)
	if err := w.Worker.SetUp(ctx, mgr, 4); err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("controllers ended: %v", err)
		}
	})
}

// warehouse makes an org and its warehouse; its id is the world's own.
func (w *world) warehouse(change ...func(*v1alpha1.WarehouseSpec)) *v1alpha1.Warehouse {
	w.t.Helper()
	of := metav1.ObjectMeta{Name: "acme-" + strings.TrimPrefix(w.Namespace, "test-"), Labels: map[string]string{worldLabel: w.Namespace}}
	o := &v1alpha1.Warehouse{ObjectMeta: of, Spec: v1alpha1.WarehouseSpec{MetadataStore: v1alpha1.MetadataStoreSpec{
		Type: "aurora", Aurora: &v1alpha1.AuroraSpec{MinACU: "0.5", MaxACU: "2"}}}}
	for _, f := range change {
		f(&o.Spec)
	}
	for _, made := range []client.Object{&v1alpha1.Org{ObjectMeta: of}, o} {
		if err := w.Create(w.t.Context(), made); err != nil {
			w.t.Fatal(err)
		}
	}
	return o
}

func (w *world) until(what string, holds func() (bool, string)) {
	w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		ok, last := holds()
		if ok {
			return
		}
		select {
		case <-deadline:
			w.t.Fatalf("waiting for %s: %s", what, last)
		case <-tick.C:
		}
	}
}

// expect waits until o has the state, with a message that holds says.
func (w *world) expect(o *v1alpha1.Warehouse, state v1alpha1.WarehouseState, says string) {
	w.t.Helper()
	w.until(fmt.Sprintf("%s to be %s with %q", o.Name, state, says), func() (bool, string) {
		if err := w.Get(w.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return false, err.Error()
		}
		text := fmt.Sprintf("%s %q", o.State(), o.StateMessage())
		for _, c := range o.Status.Conditions {
			text += fmt.Sprintf("\n%s=%s/%s %s", c.Type, c.Status, c.Reason, c.Message)
		}
		return o.State() == state && strings.Contains(o.StateMessage(), says), text
	})
}

func (w *world) edit(o *v1alpha1.Warehouse, change func(*v1alpha1.WarehouseSpec)) {
	w.t.Helper()
	before := o.DeepCopy()
	change(&o.Spec)
	if err := w.Patch(w.t.Context(), o, client.MergeFrom(before)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) composite(o *v1alpha1.Warehouse) *unstructured.Unstructured {
	composite := &unstructured.Unstructured{}
	composite.SetGroupVersionKind(w.Provider.Kind)
	composite.SetNamespace(w.Namespace)
	composite.SetName(o.Name)
	return composite
}

// awaitComposite waits until berth made the composite, and reads it.
func (w *world) awaitComposite(o *v1alpha1.Warehouse) *unstructured.Unstructured {
	w.t.Helper()
	composite := w.composite(o)
	w.until("the composite of "+o.Name, func() (bool, string) {
		err := w.Get(w.t.Context(), client.ObjectKeyFromObject(composite), composite)
		return err == nil && composite.GetDeletionTimestamp() == nil, fmt.Sprint(err)
	})
	return composite
}

// says writes into the composite's status, as Crossplane does.
func (w *world) says(o *v1alpha1.Warehouse, status map[string]any) {
	w.t.Helper()
	w.awaitComposite(o)
	body, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.Status().Patch(w.t.Context(), w.composite(o), client.RawPatch(types.MergePatchType, body)); err != nil {
		w.t.Fatal(err)
	}
}

// conditions are those of a composite, as of now.
func conditions(ready, synced, message string) []any {
	of := func(kind, status string) map[string]any {
		return map[string]any{"type": kind, "status": status, "reason": "Test", "message": message, "lastTransitionTime": time.Now().UTC().Format(time.RFC3339)}
	}
	return []any{of("Synced", synced), of("Ready", ready)}
}

// up is the status of a composite whose metadata store is target, reached
// through its pooler, with the password in a Secret.
func (w *world) up(o *v1alpha1.Warehouse, target postgres.Target) map[string]any {
	w.t.Helper()
	w.secret(o.Name+"-metadata", target.Password)
	return map[string]any{
		"metadataStore": map[string]any{
			"type": "aurora", "endpoint": "db.example.org", "user": target.User, "database": target.Database, "pgbouncerEndpoint": target.Address(),
			"credentialSecretRef": map[string]any{"name": o.Name + "-metadata", "namespace": w.Namespace, "key": "password"},
		},
		"dataStore":  map[string]any{"type": "s3bucket", "bucketName": "bucket-" + o.Name, "s3Region": "us-east-1"},
		"iamRoleArn": "arn:aws:iam::123456789012:role/duckling-" + o.Name,
		"conditions": conditions("True", "True", ""),
	}
}

func (w *world) secret(name, password string) {
	w.t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: name}, StringData: map[string]string{"password": password}}
	if err := w.Create(w.t.Context(), secret); err != nil && !apierrors.IsAlreadyExists(err) {
		w.t.Fatal(err)
	}
}

// finalizer holds a composite back, as Crossplane's does until all is gone.
func (w *world) finalizer(o *v1alpha1.Warehouse, hold bool) {
	w.t.Helper()
	list := []string{}
	if hold {
		list = append(list, "example.org/hold")
	}
	body, _ := json.Marshal(map[string]any{"metadata": map[string]any{"finalizers": list}})
	if err := w.Patch(w.t.Context(), w.composite(o), client.RawPatch(types.MergePatchType, body)); err != nil {
		w.t.Fatal(err)
	}
}

func secretMeta(w *world, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: w.Namespace, Name: name}
}

// definition is what Crossplane renders of deploy/crossplane/definition.yaml,
// under another name of the kind.
func definition(t *testing.T, kind, as string) fstest.MapFS {
	t.Helper()
	text, err := os.ReadFile("../../deploy/crossplane/definition.yaml")
	if err != nil {
		t.Fatal(err)
	}
	renamed := strings.NewReplacer(kind, as, strings.ToLower(kind), strings.ToLower(as)).Replace(string(text))
	o := map[string]any{}
	if err := yaml.Unmarshal([]byte(renamed), &o); err != nil {
		t.Fatal(err)
	}
	o["apiVersion"], o["kind"] = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
	version := o["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)
	delete(version, "referenceable")
	version["storage"], version["subresources"] = true, map[string]any{"status": map[string]any{}}
	open := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	for path, schema := range map[string]any{"spec.crossplane": open, "spec.tier": map[string]any{"type": "string"}, "status.conditions": map[string]any{"type": "array", "items": open}} {
		section, field, _ := strings.Cut(path, ".")
		if err := unstructured.SetNestedField(version, schema, "schema", "openAPIV3Schema", "properties", section, "properties", field); err != nil {
			t.Fatal(err)
		}
	}
	rendered, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{"definition.yaml": {Data: rendered}}
}
