package webhook_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gomodules.xyz/jsonpatch/v2"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/berth-dev/berth/internal/testkit"
)

// second registers a webhook of somebody else for one namespace. It puts a
// container before all others and an environment variable into each, once.
func second(t *testing.T, api client.Client, name, namespace string) {
	t.Helper()
	hook := &admission.Webhook{Handler: admission.HandlerFunc(func(_ context.Context, req admission.Request) admission.Response {
		p := &corev1.Pod{}
		if err := json.Unmarshal(req.Object.Raw, p); err != nil {
			return admission.Errored(400, err)
		}
		if len(p.Spec.InitContainers) > 0 && p.Spec.InitContainers[0].Name == "mesh" {
			return admission.Allowed("")
		}
		mesh := corev1.Container{Name: "mesh", Image: "mesh:1"}
		if len(p.Spec.InitContainers) == 0 {
			return admission.Patched("", jsonpatch.NewOperation("add", "/spec/initContainers", []corev1.Container{mesh}))
		}
		return admission.Patched("",
			jsonpatch.NewOperation("add", "/spec/initContainers/0/env", []corev1.EnvVar{{Name: "MESH", Value: "on"}}),
			jsonpatch.NewOperation("add", "/spec/initContainers/0", mesh))
	})}
	server := httptest.NewTLSServer(hook)
	t.Cleanup(server.Close)
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{}
	configuration.Name = name + "-" + namespace
	configuration.Webhooks = []admissionregistrationv1.MutatingWebhook{{
		Name:                    "mesh.example.com",
		AdmissionReviewVersions: []string{"v1"},
		SideEffects:             ptr.To(admissionregistrationv1.SideEffectClassNone),
		FailurePolicy:           ptr.To(admissionregistrationv1.Fail),
		NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}},
		ClientConfig: admissionregistrationv1.WebhookClientConfig{
			URL:      &server.URL,
			CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
		},
		Rules: []admissionregistrationv1.RuleWithOperations{{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
		}},
	}}
	if err := api.Create(t.Context(), configuration); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Delete(context.Background(), configuration); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the API server to ask the second webhook", func() bool {
		return len(create(t, api, namespace, pod(nil)).Spec.InitContainers) == 1
	})
}

// Another webhook changes the pod before or after us: we are asked again, and
// inject nothing twice.
func TestAnotherWebhookHasUsAskedAgain(t *testing.T) {
	t.Parallel()
	api, calls := serve(t)
	for name, tc := range map[string]struct {
		prefix string // the API server asks in the order of names; ours is berth-webhook
		want   []string
		calls  int
	}{
		"when it comes after us":  {"zz", []string{"mesh", "dbproxy", "dsnexec"}, 2},
		"when it comes before us": {"aa", []string{"dbproxy", "dsnexec", "mesh"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			namespace := testkit.Namespace(t)
			second(t, api, tc.prefix, namespace)
			got := create(t, api, namespace, pod(own(both...)))
			if diff := cmp.Diff(tc.want, names(got.Spec.InitContainers)); diff != "" {
				t.Error(diff)
			}
			if calls.of(namespace) != tc.calls {
				t.Errorf("%d calls, want %d", calls.of(namespace), tc.calls)
			}
		})
	}
}
