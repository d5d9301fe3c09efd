package v1alpha1_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
)

// A manifest of db-controller, every field of its spec set.
const dbController = `
apiVersion: persistance.atlas.infoblox.com/v1
kind: DatabaseClaim
metadata: {name: identity, namespace: default}
spec:
  appId: identity
  backupPolicy: Gold
  class: default
  databaseName: identity
  dbVersion: "15.2"
  deletionPolicy: orphan
  dsnName: dsn.txt
  enableReplicationRole: true
  enableSuperUser: false
  maxStorageGB: 100
  minStorageGB: 20
  preferredMaintenanceWindow: sun:02:00-sun:03:00
  restoreFrom: rds:identity-2024-01-01
  secretName: identity-dsn
  shape: db.t4g.medium!io1
  sourceDataFrom:
    type: database
    database:
      dsn: postgres://root@identity.example.org:5432/identity?sslmode=require
      secretRef: {name: identity-source, namespace: default}
  tags:
  - {key: team, value: identity}
  type: aurora-postgresql
  useExistingSource: true
  userName: identity_user
`

func TestADBControllerManifestMovesByItsVersion(t *testing.T) {
	t.Parallel()
	moved := strings.Replace(dbController, "persistance.atlas.infoblox.com/v1", v1alpha1.GroupVersion.String(), 1)
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(moved), &o.Object); err != nil {
		t.Fatal(err)
	}
	was := o.DeepCopy()
	if err := newClient(t).Create(t.Context(), o, client.DryRunAll, strict); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(words(t, was), words(t, o)); diff != "" {
		t.Errorf("what was kept (-sent +kept):\n%s", diff)
	}
	typed := &v1alpha1.DatabaseClaim{}
	if err := yaml.UnmarshalStrict([]byte(moved), typed); err != nil {
		t.Error(err)
	}
}

// words is an object's spec as YAML, in which all numbers are alike.
func words(t *testing.T, o *unstructured.Unstructured) string {
	t.Helper()
	text, err := yaml.Marshal(o.Object["spec"])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c := newClient(t)
	class := &v1alpha1.DatabaseClass{ObjectMeta: metav1.ObjectMeta{Name: "defaults"}, Spec: v1alpha1.DatabaseClassSpec{Backend: "local"}}
	if err := c.Create(t.Context(), class, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	want := v1alpha1.DatabaseClassSpec{
		Backend: "local", SSLMode: "verify-full",
		Allow: v1alpha1.Allowances{Extensions: []string{"btree_gin", "btree_gist", "citext", "cube", "fuzzystrmatch", "hstore", "intarray", "ltree",
			"pg_trgm", "pgcrypto", "seg", "tablefunc", "unaccent", "uuid-ossp"}},
		Password:      v1alpha1.PasswordPolicy{Length: 32, Complexity: "disabled"},
		Rotation:      v1alpha1.RotationPolicy{Period: minutes(60), Floor: minutes(60), Propagation: ptr.To(minutes(2))},
		Deletion:      v1alpha1.DeletionPolicy{Reclaim: "Delete", UndoWindow: ptr.To(minutes(24 * 60))},
		DriftInterval: minutes(30),
	}
	if diff := cmp.Diff(want, class.Spec); diff != "" {
		t.Errorf("a class of nothing (-want +got):\n%s", diff)
	}
	bare := v1alpha1.DatabaseClassSpec{}
	if bare.Rotation.Hold() != class.Spec.Rotation.Hold() || bare.Deletion.Window() != class.Spec.Deletion.Window() {
		t.Error("a class that was not defaulted has another hold or undo window")
	}

	partly := manifest(t, "DatabaseClass", "partly", `{backend: local, rotation: {propagation: 0s}, deletion: {undoWindow: 0s}, password: {length: 20}}`)
	if err := c.Create(t.Context(), partly, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	wantPartly := map[string]any{
		"rotation": map[string]any{"period": "60m", "floor": "60m", "propagation": "0s"},
		"deletion": map[string]any{"reclaim": "Delete", "undoWindow": "0s"},
		"password": map[string]any{"length": int64(20), "complexity": "disabled"},
	}
	for field, want := range wantPartly {
		got, _, _ := unstructured.NestedMap(partly.Object, "spec", field)
		if diff := cmp.Diff(want, any(got)); diff != "" {
			t.Errorf("the rest of spec.%s (-want +got):\n%s", field, diff)
		}
	}

	claim := manifest(t, "DatabaseClaim", "defaults", `{}`)
	if err := c.Create(t.Context(), claim, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"class": "default"}, claim.Object["spec"]); diff != "" {
		t.Errorf("a claim of nothing (-want +got):\n%s", diff)
	}
}

func minutes(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Minute} }

// A class that a Go program reads and writes back keeps what zero means.
func TestZeroPoliciesSurviveARoundTrip(t *testing.T) {
	t.Parallel()
	c := newClient(t)
	class := manifest(t, "DatabaseClass", "", `{backend: local, rotation: {propagation: 0s}, deletion: {undoWindow: 0s}}`)
	class.SetGenerateName("zero-")
	if err := c.Create(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	typed := &v1alpha1.DatabaseClass{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(class), typed); err != nil {
		t.Fatal(err)
	}
	if err := c.Update(t.Context(), typed); err != nil {
		t.Fatal(err)
	}
	if typed.Spec.Rotation.Hold() != 0 || typed.Spec.Deletion.Window() != 0 {
		t.Errorf("hold %s and undo window %s, want none", typed.Spec.Rotation.Hold(), typed.Spec.Deletion.Window())
	}
}

func TestStatusIsItsOwn(t *testing.T) {
	t.Parallel()
	c := newClient(t)
	claim := &v1alpha1.DatabaseClaim{ObjectMeta: metav1.ObjectMeta{GenerateName: "status-", Namespace: "default"}}
	claim.Status.Database = "smuggled"
	if err := c.Create(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	if claim.Status.Database != "" {
		t.Error("whoever makes a claim can write its status")
	}
	generation := claim.Generation
	meta.SetStatusCondition(claim.Conditions(), metav1.Condition{Type: v1alpha1.Ready, Status: metav1.ConditionTrue, Reason: "Ready"})
	*claim.ObservedGeneration() = generation
	if err := c.Status().Update(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	if claim.Generation != generation || !meta.IsStatusConditionTrue(claim.Status.Conditions, v1alpha1.Ready) {
		t.Errorf("generation %d after %d, conditions %v", claim.Generation, generation, claim.Status.Conditions)
	}
}

func TestDeletionProtection(t *testing.T) {
	t.Parallel()
	c := newClient(t)
	make := func(t *testing.T, protected bool, finalizers ...string) *v1alpha1.DatabaseClaim {
		t.Helper()
		claim := &v1alpha1.DatabaseClaim{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "kept-", Namespace: testkit.Namespace(t), Finalizers: finalizers},
			Spec:       v1alpha1.DatabaseClaimSpec{DeletionProtection: protected},
		}
		if err := c.Create(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
		return claim
	}
	const says = "is protected; set spec.deletionProtection to false first"
	// The server takes up admission rules a moment after it has stored them.
	awaitDenied(t, c, make(t, true))

	for name, finalizers := range map[string][]string{"without finalizers": nil, "with a finalizer": {"test.berth.dev/hold"}} {
		t.Run("denies "+name, func(t *testing.T) {
			t.Parallel()
			claim := make(t, true, finalizers...)
			err := c.Delete(t.Context(), claim)
			if err == nil || !strings.Contains(err.Error(), "DatabaseClaim "+claim.Namespace+"/"+claim.Name+" "+says) {
				t.Errorf("got %v", err)
			}
			if err := c.DeleteAllOf(t.Context(), &v1alpha1.DatabaseClaim{}, client.InNamespace(claim.Namespace)); err == nil {
				t.Error("it can be deleted with all others")
			}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil || claim.DeletionTimestamp != nil {
				t.Errorf("it is gone or going: %v", err)
			}
			claim.Spec.DeletionProtection = false
			if err := c.Update(t.Context(), claim); err != nil {
				t.Fatal(err)
			}
			if err := c.Delete(t.Context(), claim); err != nil {
				t.Errorf("unprotected: %v", err)
			}
		})
	}
	t.Run("lets unprotected claims go", func(t *testing.T) {
		t.Parallel()
		if err := c.Delete(t.Context(), make(t, false)); err != nil {
			t.Error(err)
		}
	})
	t.Run("lets a protected claim go with its namespace", func(t *testing.T) {
		t.Parallel()
		claim := make(t, true)
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: claim.Namespace}}
		if err := c.Delete(t.Context(), namespace); err != nil {
			t.Fatal(err)
		}
		await(t, "the claim to be let go", func() bool {
			err := c.Delete(t.Context(), claim)
			if err != nil && !apierrors.IsNotFound(err) && !strings.Contains(err.Error(), says) {
				t.Fatal(err)
			}
			return err == nil || apierrors.IsNotFound(err)
		})
	})
}

func awaitDenied(t *testing.T, c client.Client, claim *v1alpha1.DatabaseClaim) {
	t.Helper()
	await(t, "the admission rule", func() bool { return c.Delete(t.Context(), claim, client.DryRunAll) != nil })
}

// await returns once holds does.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick, deadline := time.NewTicker(20*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited 20 s for %s", what)
		}
	}
}
