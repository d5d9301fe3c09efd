package duckling_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/dev"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/warehouse"
	"github.com/berth-dev/berth/warehouse/duckling"
)

func TestAWarehouseBecomesReadyOnceALoginWorked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.Provider.Extras = map[string]any{"tier": "gold"} })
	o := w.warehouse()
	composite := w.awaitComposite(o)
	want := map[string]any{
		"metadataStore": map[string]any{"type": "aurora", "aurora": map[string]any{"minACU": 0.5, "maxACU": int64(2)}},
		"dataStore":     map[string]any{"type": "s3bucket"}, "tier": "gold",
	}
	if diff := cmp.Diff(want, composite.Object["spec"]); diff != "" {
		t.Error(diff)
	}
	w.expect(o, "provisioning", "waiting for resources (metadata store, data store, identity, secrets)")

	target := testkit.Postgres(t, 15).Target()
	wrong := target
	wrong.Password = "not-the-password"
	w.says(o, w.up(o, wrong))
	w.expect(o, "provisioning", "Infrastructure is up, but a login fails: LoginRefused.")
	for _, c := range []string{v1alpha1.DataStoreReady, v1alpha1.MetadataStoreReady, v1alpha1.IdentityReady, v1alpha1.SecretsReady} {
		if o.ComponentState(c) != "ready" {
			t.Errorf("%s is %s", c, o.ComponentState(c))
		}
	}
	secret := &corev1.Secret{}
	if err := w.Get(t.Context(), client.ObjectKey{Namespace: w.Namespace, Name: o.Name + "-metadata"}, secret); err != nil {
		t.Fatal(err)
	}
	secret.StringData = map[string]string{"password": target.Password}
	if err := w.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	w.expect(o, "ready", "Infrastructure ready")
	if o.Status.ReadyAt == nil || o.Status.DataStore.BucketName != "bucket-"+o.Name || o.Status.Identity.RoleARN == "" {
		t.Errorf("the status lacks facts: %+v", o.Status)
	}
	if body, _ := json.Marshal(o); strings.Contains(string(body), target.Password) {
		t.Error("the warehouse shows the password")
	}

	w.says(o, map[string]any{"conditions": conditions("False", "True", "rebooting")})
	w.expect(o, "ready", "rebooting")
	if got := o.ComponentState(v1alpha1.MetadataStoreReady); got != "provisioning" {
		t.Errorf("a component that the provider does not stand by is %s", got)
	}
}

func TestAFailedWarehouseRecoversByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) {
		w.Worker.Budget.Sync, w.Worker.Budget.Look = time.Second, 200*time.Millisecond
	})
	o := w.warehouse()
	w.says(o, map[string]any{"conditions": conditions("False", "False", "cannot compose: postgres://root:hunter2@db refused")})
	w.expect(o, "failed", "Crossplane error: cannot compose: postgres://root:…@db refused")
	if o.Status.FailedAt == nil {
		t.Error("nobody knows since when")
	}
	w.says(o, w.up(o, testkit.Postgres(t, 15).Target()))
	w.expect(o, "ready", "")
	if o.Status.FailedAt != nil {
		t.Error("it still says that it failed")
	}
}

func TestTheComposedResourceAtFaultIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) {
		w.Worker.Budget.Provisioning, w.Worker.Budget.Look = 2*time.Second, 200*time.Millisecond
	})
	o := w.warehouse()
	composite := w.awaitComposite(o)
	pond := &unstructured.Unstructured{Object: map[string]any{}}
	pond.SetGroupVersionKind(schema.GroupVersionKind{Group: "example.org", Version: "v1", Kind: "Pond"})
	pond.SetNamespace(w.Namespace)
	pond.SetName(o.Name + "-1e2dbc3fa41f")
	if err := w.Create(t.Context(), pond); err != nil {
		t.Fatal(err)
	}
	pond.Object["status"] = map[string]any{"conditions": conditions("False", "False", "AccessDenied: may not fill it")}
	if err := w.Status().Update(t.Context(), pond); err != nil {
		t.Fatal(err)
	}
	refs := []any{
		map[string]any{"apiVersion": "v1", "kind": "Secret", "name": "unread"},
		map[string]any{"apiVersion": "example.org/v1", "kind": "Pond", "name": pond.GetName()},
	}
	if err := unstructured.SetNestedSlice(composite.Object, refs, "spec", "crossplane", "resourceRefs"); err != nil {
		t.Fatal(err)
	}
	if err := w.Update(t.Context(), composite); err != nil {
		t.Fatal(err)
	}
	w.says(o, map[string]any{"conditions": conditions("False", "True", "Unready resources: pond")})
	w.expect(o, "provisioning", "Pond "+pond.GetName()+": Test AccessDenied: may not fill it")
	w.expect(o, "failed", "Provisioning timed out after 0 minutes: Pond "+pond.GetName())
}

func TestDeletedIsSaidOnlyWhenTheCompositeIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	o := w.warehouse()
	first := w.awaitComposite(o)
	w.finalizer(o, true)
	w.edit(o, func(s *v1alpha1.WarehouseSpec) { s.Deprovision = true }) // during provisioning
	w.expect(o, "deleting", "Deprovisioning...")

	w.edit(o, func(s *v1alpha1.WarehouseSpec) { s.Deprovision, s.Attempt = false, 2 })
	w.expect(o, "pending", "An earlier Duckling "+o.Name+" is still being deleted.")
	w.finalizer(o, false)
	if again := w.awaitComposite(o); again.GetUID() == first.GetUID() {
		t.Error("the terminating composite was taken for a new one")
	}
	w.expect(o, "provisioning", "")

	w.edit(o, func(s *v1alpha1.WarehouseSpec) { s.Deprovision = true })
	w.expect(o, "deleted", "Resources deleted")
	composite := w.composite(o)
	if err := w.Get(t.Context(), client.ObjectKeyFromObject(composite), composite); !apierrors.IsNotFound(err) {
		t.Errorf("the composite is there while its warehouse says deleted: %v", err)
	}
	if err := w.Delete(t.Context(), &v1alpha1.Org{ObjectMeta: o.ObjectMeta}); err != nil {
		t.Fatal(err)
	}
	w.until("the record to go with its org", func() (bool, string) {
		err := w.Get(t.Context(), client.ObjectKeyFromObject(o), o)
		return apierrors.IsNotFound(err), "it is still there"
	})
}

func TestAWarehouseInUseIsNeverReplacedByAnEmptyOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	o := w.warehouse()
	w.says(o, w.up(o, testkit.Postgres(t, 15).Target()))
	w.expect(o, "ready", "")
	if err := w.Delete(t.Context(), w.composite(o)); err != nil {
		t.Fatal(err)
	}
	w.expect(o, "failed", "was deleted or replaced while it was in use")
	w.edit(o, func(s *v1alpha1.WarehouseSpec) { s.Attempt++ })
	w.awaitComposite(o)
	w.expect(o, "provisioning", "")
}

func TestWhatCannotComeToBeFailsAtOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*world)
		spec   func(*v1alpha1.WarehouseSpec)
		says   string
	}{
		"a spec that the definition refuses": {spec: func(s *v1alpha1.WarehouseSpec) { s.MetadataStore.Aurora.MaxACU = "9999" }, says: "Failed to create Duckling CR"},
		"a field that the definition does not know": {change: func(w *world) {
			w.Provider.Extras = map[string]any{"unheardOf": true}
		}, says: "unheardOf"},
		"a namespace that is not there": {change: func(w *world) { w.Provider.Namespace = "nowhere" }, says: `namespaces "nowhere" not found`},
		"a definition that is not installed": {change: func(w *world) { w.Provider.Kind.Kind = "Goose" },
			says: "This cluster does not know Goose.k8s.posthog.com"},
		"a provider that this controller has not": {change: func(w *world) { w.Worker.Providers = map[string]warehouse.Provider{} },
			says: "does not run provider duckling"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tc.change)
			o := w.warehouse(func(s *v1alpha1.WarehouseSpec) {
				if tc.spec != nil {
					tc.spec(s)
				}
			})
			began := time.Now()
			w.expect(o, "failed", tc.says)
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %s to say so", took)
			}
		})
	}
}

func TestAProviderInstalledLaterIsTakenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.Provider.Kind.Kind, w.Worker.Budget.Look = "Gosling", 500*time.Millisecond })
	o := w.warehouse()
	w.expect(o, "failed", "install its CompositeResourceDefinition")
	if err := dev.InstallCRDs(t.Context(), w.access, definition(t, "Duckling", "Gosling")); err != nil {
		t.Fatal(err)
	}
	w.says(o, w.up(o, testkit.Postgres(t, 15).Target()))
	w.expect(o, "ready", "")
}

func TestSpecDriftIsCorrected(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	o := w.warehouse()
	composite := w.awaitComposite(o)
	w.expect(o, "provisioning", "")
	if err := unstructured.SetNestedField(composite.Object, int64(64), "spec", "metadataStore", "aurora", "maxACU"); err != nil {
		t.Fatal(err)
	}
	if err := w.Update(t.Context(), composite); err != nil {
		t.Fatal(err)
	}
	acu := func() any {
		composite := w.awaitComposite(o)
		value, _, _ := unstructured.NestedFieldNoCopy(composite.Object, "spec", "metadataStore", "aurora", "maxACU")
		return value
	}
	w.until("the drift to be corrected", func() (bool, string) { return acu() == int64(2), "not yet" })
	w.edit(o, func(s *v1alpha1.WarehouseSpec) { s.MetadataStore.Aurora.MaxACU = "4" })
	w.until("the change to arrive", func() (bool, string) { return acu() == int64(4), "not yet" })
}

func TestAPasswordInACompositeGoesToASecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	o := w.warehouse()
	target := testkit.Postgres(t, 15).Target()
	status := w.up(o, target)
	store := status["metadataStore"].(map[string]any)
	delete(store, "credentialSecretRef")
	store["password"] = target.Password
	if err := w.Delete(t.Context(), &corev1.Secret{ObjectMeta: secretMeta(w, o.Name+"-metadata")}); err != nil {
		t.Fatal(err)
	}
	w.says(o, status)
	w.expect(o, "ready", "")
	ref := o.Status.MetadataStore.Credential
	secret := &corev1.Secret{}
	if err := w.Get(t.Context(), client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, secret); err != nil {
		t.Fatal(err)
	}
	if string(secret.Data[ref.Key]) != target.Password {
		t.Error("the Secret does not hold the password")
	}
	if body, _ := json.Marshal(o); strings.Contains(string(body), target.Password) {
		t.Error("the warehouse shows the password")
	}
}

func TestASecretOfAnotherOrgIsNotRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	o := w.warehouse()
	status := w.up(o, testkit.Postgres(t, 15).Target())
	w.secret("umbrella-metadata", "theirs")
	status["metadataStore"].(map[string]any)["credentialSecretRef"].(map[string]any)["name"] = "umbrella-metadata"
	w.says(o, status)
	w.expect(o, "provisioning", "Secret umbrella-metadata; its name must begin with "+o.Name+"-")
}

func TestAMissingRightIsARefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	nobody, err := client.New(testkit.User(t, "nobody"), client.Options{Scheme: w.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	p := &duckling.Provider{Client: nobody, Live: nobody, Kind: duckling.Kind, Namespace: w.Namespace}
	var refusal *warehouse.Refusal
	if _, err := p.Observe(t.Context(), &v1alpha1.Warehouse{ObjectMeta: metav1.ObjectMeta{Name: "acme"}}); !errors.As(err, &refusal) || refusal.Reason != warehouse.Refused {
		t.Errorf("reading without the right to: %v", err)
	}
}
