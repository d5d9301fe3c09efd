package chart_test

import (
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// asks is a request: VERB RESOURCE[/SUB][.GROUP] [NAMESPACE/][NAME].
type asks string

func (a asks) attributes() *authorizationv1.ResourceAttributes {
	words := append(strings.Fields(string(a)), "")
	resource, group, _ := strings.Cut(words[1], ".")
	resource, sub, _ := strings.Cut(resource, "/")
	namespace, name, namespaced := strings.Cut(words[2], "/")
	if !namespaced {
		namespace, name = "", words[2]
	}
	return &authorizationv1.ResourceAttributes{Verb: words[0], Group: group, Resource: resource, Subresource: sub, Namespace: namespace, Name: name}
}

// may asks the API server whether RBAC lets an account of the chart do it.
func (s *stage) may(t *testing.T, account string, a asks) bool {
	t.Helper()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user(account), Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + home, "system:authenticated"},
		ResourceAttributes: a.attributes(),
	}}
	s.make(t, review)
	return review.Status.Allowed
}

// nobody's are rights that no part of berth has, whatever the values.
var nobodys = []asks{
	"create pods shop/", "delete pods shop/app", "create pods/exec shop/app", "create pods/attach shop/app", "create pods/portforward shop/app",
	"patch pods/ephemeralcontainers shop/app", "get pods/log shop/app", "get nodes", "get nodes/proxy", "create deployments.apps shop/",
	"update deployments.apps berth-system/berth-controller", "create serviceaccounts/token berth-system/berth-controller",
	"create serviceaccounts/token kube-system/default", "impersonate users", "impersonate serviceaccounts kube-system/default", "impersonate groups",
	"escalate clusterroles.rbac.authorization.k8s.io", "bind clusterroles.rbac.authorization.k8s.io", "create clusterrolebindings.rbac.authorization.k8s.io",
	"create rolebindings.rbac.authorization.k8s.io shop/", "patch roles.rbac.authorization.k8s.io shop/r",
	"delete customresourcedefinitions.apiextensions.k8s.io databaseclaims.berth.dev", "update customresourcedefinitions.apiextensions.k8s.io databaseclaims.berth.dev",
	"delete validatingadmissionpolicies.admissionregistration.k8s.io crd-guard.berth.dev", "update validatingadmissionpolicies.admissionregistration.k8s.io berth-controller-secrets",
	"create mutatingwebhookconfigurations.admissionregistration.k8s.io", "update mutatingwebhookconfigurations.admissionregistration.k8s.io other",
	"delete mutatingwebhookconfigurations.admissionregistration.k8s.io berth-webhook", "create certificatesigningrequests.certificates.k8s.io",
	"create databaseclaims.berth.dev shop/orders", "create migrations.berth.dev shop/up", "update migrations.berth.dev shop/up", "update databaseclaims.berth.dev shop/orders", "delete databaseclaims.berth.dev shop/orders",
	"deletecollection databaseclaims.berth.dev shop/", "delete roleclaims.berth.dev shop/orders", "delete databaseclasses.berth.dev default", "create databaseclasses.berth.dev",
	"patch secrets shop/orders", "deletecollection secrets shop/", "get configmaps kube-system/x", "delete namespaces shop", "list namespaces",
	"get leases.coordination.k8s.io kube-system/kube-scheduler", "update leases.coordination.k8s.io kube-system/kube-scheduler", "delete events.events.k8s.io shop/e",
}

func TestEachMayDoWhatItMustAndNoMore(t *testing.T) {
	t.Parallel()
	s := installed(t)
	for account, tc := range map[string]struct{ may, mayNot []asks }{
		"berth-controller": {
			may: []asks{
				"watch databaseclaims.berth.dev", "patch databaseclaims.berth.dev shop/orders", "patch databaseclaims/status.berth.dev shop/orders",
				"patch roleclaims/status.berth.dev shop/reader", "watch migrations.berth.dev", "patch migrations.berth.dev shop/up", "patch migrations/status.berth.dev shop/up",
				"delete migrations.berth.dev shop/up", "patch databaseclasses/status.berth.dev default", "get namespaces kube-system",
				"create secrets shop/", "update secrets shop/orders", "get secrets shop/orders", "watch secrets", "create events.events.k8s.io shop/",
				"update leases.coordination.k8s.io berth-system/controller.berth.dev",
				"create tokenreviews.authentication.k8s.io", "get pods shop/app", "update endpointslices.discovery.k8s.io berth-system/berth-switchboard",
				"update configmaps berth-system/berth-switchboard",
			},
			mayNot: []asks{
				"update leases.coordination.k8s.io berth-system/other", "create leases.coordination.k8s.io shop/", "get namespaces shop", "list pods", "watch pods shop/",
				"create subjectaccessreviews.authorization.k8s.io", "create endpointslices.discovery.k8s.io shop/", "update endpointslices.discovery.k8s.io berth-system/other",
				"update endpointslices.discovery.k8s.io default/kubernetes", "get configmaps berth-system/other", "create configmaps berth-system/",
				"get mutatingwebhookconfigurations.admissionregistration.k8s.io berth-webhook", "update mutatingwebhookconfigurations.admissionregistration.k8s.io berth-webhook",
			},
		},
		"berth-webhook": {
			may: []asks{
				"get databaseclaims.berth.dev shop/orders", "get roleclaims.berth.dev shop/reader", "get secrets berth-system/berth-webhook",
				"update secrets berth-system/berth-webhook", "get configmaps berth-system/berth-switchboard", "update mutatingwebhookconfigurations.admissionregistration.k8s.io berth-webhook",
			},
			mayNot: []asks{
				"list databaseclaims.berth.dev", "patch databaseclaims.berth.dev shop/orders", "patch databaseclaims/status.berth.dev shop/orders",
				"get secrets shop/orders", "list secrets", "watch secrets", "get secrets kube-system/x", "get secrets berth-system/pg-admin", "list secrets berth-system/",
				"create secrets berth-system/", "delete secrets berth-system/berth-webhook", "create secrets shop/", "get pods shop/app",
				"create tokenreviews.authentication.k8s.io", "get secrets berth-system/berth-switchboard", "update configmaps berth-system/berth-switchboard",
				"get leases.coordination.k8s.io berth-system/controller.berth.dev", "create events.events.k8s.io shop/", "get namespaces kube-system",
			},
		},
	} {
		t.Run(account, func(t *testing.T) {
			t.Parallel()
			for _, a := range tc.may {
				if !s.may(t, account, a) {
					t.Errorf("it may not %s", a)
				}
			}
			for _, a := range append(tc.mayNot, nobodys...) {
				if s.may(t, account, a) {
					t.Errorf("it may %s", a)
				}
			}
		})
	}
}

// RBAC lets the controllers write any Secret; the policy beside it does not.
func TestControllersWriteNoSecretButBerths(t *testing.T) {
	t.Parallel()
	s := installed(t)
	s.namespace(t, "bystander")
	controller := newClient(t, s.account(t, "berth-controller"))
	secret := func(name string, change func(*corev1.Secret)) *corev1.Secret {
		o := &corev1.Secret{}
		o.Namespace, o.Name = "bystander", name
		if change != nil {
			change(o)
		}
		return o
	}
	labelled := func(o *corev1.Secret) { o.Labels = map[string]string{"berth.dev/owner": "orders"} }
	owned := func(o *corev1.Secret) {
		o.OwnerReferences = []metav1.OwnerReference{{APIVersion: "berth.dev/v1alpha1", Kind: "DatabaseClaim", Name: "orders", UID: "1"}}
	}
	s.make(t, secret("theirs", nil), secret("ours", labelled), secret("stripped", owned))
	for name, tc := range map[string]struct {
		do      func() error
		refused string
	}{
		"makes a Secret of a claim":         {do: func() error { return controller.Create(t.Context(), secret("new", labelled)) }},
		"changes a Secret of a claim":       {do: func() error { return controller.Update(t.Context(), secret("ours", labelled)) }},
		"mends one whose labels were taken": {do: func() error { return controller.Update(t.Context(), secret("stripped", owned)) }},
		"makes a Secret of nobody":          {func() error { return controller.Create(t.Context(), secret("other", nil)) }, "the Secrets of claims alone"},
		"changes a Secret of somebody else": {func() error { return controller.Update(t.Context(), secret("theirs", labelled)) }, "the Secrets of claims alone"},
		"deletes a Secret of somebody else": {func() error { return controller.Delete(t.Context(), secret("theirs", nil)) }, "the Secrets of claims alone"},
		"disowns a Secret of a claim":       {func() error { return controller.Update(t.Context(), secret("ours", nil)) }, "the Secrets of claims alone"},
		"makes itself a token of an account": {func() error {
			return controller.Create(t.Context(), secret("token", tokenOf("berth-webhook", labelled)))
		}, "of type Opaque alone"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.do()
			if tc.refused == "" && err != nil {
				t.Error(err)
			}
			if tc.refused != "" && (!apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tc.refused)) {
				t.Errorf("it ends with %v", err)
			}
		})
	}
	if err := s.Delete(t.Context(), secret("theirs", nil)); err != nil {
		t.Errorf("an administrator is held by the policy: %v", err)
	}
}

func tokenOf(account string, then func(*corev1.Secret)) func(*corev1.Secret) {
	return func(o *corev1.Secret) {
		then(o)
		o.Type, o.Annotations = corev1.SecretTypeServiceAccountToken, map[string]string{corev1.ServiceAccountNameKey: account}
	}
}

// Who may edit a namespace may make claims in it, who may view it may see them.
func TestTenantsGetTheirRightsWithTheirNamespace(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ verbs, not []string }{
		"berth-edit": {[]string{"create", "update", "patch", "delete"}, []string{"deletecollection"}},
		"berth-view": {[]string{"get", "list", "watch"}, []string{"create", "delete"}},
	} {
		found := false
		for _, o := range render(t) {
			if o.GetKind() != "ClusterRole" || o.GetName() != name {
				continue
			}
			found = true
			text, err := o.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			for _, verb := range want.verbs {
				if !strings.Contains(string(text), `"`+verb+`"`) {
					t.Errorf("%s lacks %s", name, verb)
				}
			}
			for _, verb := range want.not {
				if strings.Contains(string(text), `"`+verb+`"`) {
					t.Errorf("%s has %s", name, verb)
				}
			}
		}
		if !found {
			t.Errorf("there is no %s", name)
		}
	}
}

// A definition goes only when somebody says on it that it may.
func TestDefinitionsAreNotDeletedByMistake(t *testing.T) {
	t.Parallel()
	s := installed(t)
	d := definition("roleclaims.berth.dev")
	if err := s.Delete(t.Context(), d); err == nil || !strings.Contains(err.Error(), "is protected") {
		t.Fatalf("deleting it ends with %v", err)
	}
	if err := s.DeleteAllOf(t.Context(), d); err == nil || !strings.Contains(err.Error(), "is protected") {
		t.Fatalf("deleting all ends with %v", err)
	}
	if err := s.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
		t.Fatal(err)
	}
	if err := s.Patch(t.Context(), d, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"berth.dev/allow-deletion":"true"}}}`)), client.DryRunAll); err != nil {
		t.Fatal(err)
	}
}
