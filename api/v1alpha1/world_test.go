package v1alpha1_test

import (
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func newClient(t testing.TB) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return testkit.Client(t, scheme)
}

// manifest is an object of one of our kinds with this spec, in YAML.
func manifest(t testing.TB, kind, name, spec string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.Unmarshal([]byte(spec), &o.Object); err != nil {
		t.Fatal(err)
	}
	o.Object = map[string]any{"spec": o.Object}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	o.SetName(name)
	if kind != "DatabaseClass" {
		o.SetNamespace("default")
	}
	return o
}

// refused checks that err holds every text, those of fields as causes of
// their own; without texts, that there is no error.
func refused(t testing.TB, err error, texts ...string) {
	t.Helper()
	if len(texts) == 0 {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	if !apierrors.IsInvalid(err) {
		t.Fatalf("want a refusal with %q, got %v", texts, err)
	}
	fields := 0
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the answer lacks %q: %v", text, err)
		}
		if strings.HasPrefix(text, "spec.") {
			fields++
		}
	}
	if status := (apierrors.APIStatus)(nil); !errors.As(err, &status) || len(status.Status().Details.Causes) < fields {
		t.Errorf("the answer has fewer than %d causes: %v", fields, err)
	}
}

var strict = client.FieldValidation(metav1.FieldValidationStrict)
