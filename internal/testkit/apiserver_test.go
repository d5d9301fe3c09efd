package testkit_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/internal/testkit"
)

func TestNamespaceIsFreshAndUsable(t *testing.T) {
	t.Parallel()
	c := testkit.Client(t, nil)
	one, two := testkit.Namespace(t), testkit.Namespace(t)
	if one == two {
		t.Fatalf("both namespaces are %s", one)
	}
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = one, "kept"
	if err := c.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: two, Name: "kept"}, secret); !apierrors.IsNotFound(err) {
		t.Fatalf("reading the Secret in the other namespace: %v", err)
	}
}
