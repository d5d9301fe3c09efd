package chart_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
)

func definition(name string) *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// login connects by a claim's Secret, as its tenant does.
func (s *stage) login(t *testing.T, c *v1alpha1.DatabaseClaim) error {
	t.Helper()
	secret := &corev1.Secret{}
	if err := s.Get(t.Context(), client.ObjectKeyFromObject(c), secret); err != nil {
		return err
	}
	target, err := postgres.ParseDSN(string(secret.Data["uri_dsn.txt"]))
	if err != nil {
		return err
	}
	conn, err := testkit.Connect(t.Context(), target)
	if err != nil {
		return err
	}
	return conn.Close(context.WithoutCancel(t.Context()))
}

func answers(t *testing.T, url string) (bool, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return err == nil && response.StatusCode == http.StatusOK, string(text)
}

// The rights of the chart are all that the controllers need: claims of all
// kinds become Ready, are rotated and go.
func TestControllersWorkWithTheRightsOfTheChart(t *testing.T) {
	t.Parallel()
	s := installed(t)
	s.class(t, "work")
	s.namespace(t, "worker")
	health := s.run(t, "berth-controller", 8081)
	standby := s.run(t, "berth-controller", 8081)
	for _, address := range []string{health, standby} {
		eventually(t, "a replica to be ready", func() (bool, string) { return answers(t, "http://"+address+"/readyz") })
	}
	c := s.claim(t, "worker", "orders", "work")
	r := &v1alpha1.RoleClaim{Spec: v1alpha1.RoleClaimSpec{SourceDatabaseClaim: v1alpha1.ClaimReference{Name: "orders"}, SchemaRoleMap: map[string]v1alpha1.SchemaRole{"public": "readonly"}}}
	r.Namespace, r.Name = "worker", "reader"
	s.make(t, r)
	s.awaitReady(t, c)
	s.awaitReady(t, r)
	if err := s.login(t, c); err != nil {
		t.Errorf("logging in: %v", err)
	}
	before := c.DeepCopy()
	c.Spec.Rotation.MinVersion = 2
	if err := s.Patch(t.Context(), c, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "version 2", func() (bool, string) {
		err := s.Get(t.Context(), client.ObjectKeyFromObject(c), c)
		return err == nil && c.Status.Credential != nil && c.Status.Credential.Version == 2, ""
	})
	events := &corev1.EventList{}
	eventually(t, "an event", func() (bool, string) {
		err := s.List(t.Context(), events, client.InNamespace("worker"))
		return err == nil && len(events.Items) > 0, ""
	})
	class := &v1alpha1.DatabaseClass{}
	class.Name = "work"
	for _, o := range []client.Object{r, c, class} {
		if err := s.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		eventually(t, o.GetName()+" to be gone", func() (bool, string) {
			return apierrors.IsNotFound(s.Get(t.Context(), client.ObjectKeyFromObject(o), o)), "it is there"
		})
	}
}

// The same for the webhook: it keeps its certificates, has itself trusted and
// injects a sidecar of the chart's image.
func TestWebhookWorksWithTheRightsOfTheChart(t *testing.T) {
	t.Parallel()
	s := installed(t)
	s.namespace(t, "asker")
	s.claim(t, "asker", "orders", "any")
	address := s.run(t, "berth-webhook", 9443)
	registration := &admissionregistrationv1.MutatingWebhookConfiguration{}
	roots := x509.NewCertPool()
	eventually(t, "the authority in the registration", func() (bool, string) {
		err := s.Get(t.Context(), client.ObjectKey{Name: "berth-webhook"}, registration)
		return err == nil && roots.AppendCertsFromPEM(registration.Webhooks[0].ClientConfig.CABundle), ""
	})
	service := registration.Webhooks[0].ClientConfig.Service
	caller := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, MinVersion: tls.VersionTLS12, ServerName: service.Name + "." + service.Namespace + ".svc",
	}}}
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
	pod.Labels = map[string]string{"berth.dev/claim": "orders", "berth.dev/dbproxy": "enabled"}
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	review := admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: &admissionv1.AdmissionRequest{
		UID: "1", Namespace: "asker", Operation: admissionv1.Create, Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Object: runtime.RawExtension{Raw: raw},
	}}
	body, err := json.Marshal(review)
	if err != nil {
		t.Fatal(err)
	}
	response, err := caller.Post("https://"+address+*service.Path, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer := admissionv1.AdmissionReview{}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if !answer.Response.Allowed || !strings.Contains(string(answer.Response.Patch), `"image":"berth:0.1.0"`) || len(answer.Response.Warnings) > 0 {
		t.Errorf("it answers %+v with patch %s", answer.Response.Result, answer.Response.Patch)
	}
}

// Everything of the chart is admitted where the strictest pod security holds.
func TestPodsKeepTheStrictestPodSecurity(t *testing.T) {
	t.Parallel()
	s := installed(t)
	restricted := &corev1.Namespace{}
	restricted.Name, restricted.Labels = "restricted", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}
	s.make(t, restricted)
	if err := s.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: restricted.Name, Name: "careless"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a"}}},
	}, client.DryRunAll); !apierrors.IsForbidden(err) {
		t.Fatalf("a careless pod is answered with %v", err)
	}
	for _, o := range render(t, everything...) {
		if o.GetKind() != "Deployment" {
			continue
		}
		d := &appsv1.Deployment{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, d); err != nil {
			t.Fatal(err)
		}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: restricted.Name, Name: d.Name}, Spec: d.Spec.Template.Spec}
		if err := s.Create(t.Context(), pod, client.DryRunAll); err != nil {
			t.Errorf("%s: %v", d.Name, err)
		}
	}
}

// An upgrade changes no claim, and what the webhook wrote stays. The end of the
// release leaves claims and databases, and another release takes them over.
func TestUpgradeAndUninstallKeepClaimsAndDatabases(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.install(t)
	s.class(t, "default")
	s.namespace(t, "shop")
	c := s.claim(t, "shop", "orders", "default")
	t.Run("with the program running", func(t *testing.T) {
		s.run(t, "berth-controller", 8081)
		s.run(t, "berth-webhook", 9443)
		s.awaitReady(t, c)
		before := s.written(t)
		s.install(t, "controller.replicas=3")
		if diff := gocmp.Diff(before, s.written(t)); diff != "" {
			t.Errorf("the upgrade changed what the webhook wrote (values not shown):\n%d bytes of difference", len(diff))
		}
	})
	s.install(t, "tenantNamespaces={shop}", "switchboard.enabled=false")
	t.Run("with a list of namespaces, other Secrets are out of reach", func(t *testing.T) {
		for a, want := range map[asks]bool{
			"get secrets shop/orders": true, "watch secrets shop/": true, "patch databaseclaims/status.berth.dev shop/orders": true,
			"get secrets berth-system/pg-admin": true, "get secrets mail/orders": false, "list secrets": false, "get secrets kube-system/x": false,
			"create secrets berth-system/": false, "list databaseclaims.berth.dev": false,
			"create tokenreviews.authentication.k8s.io": false, "get pods shop/app": false, "update configmaps berth-system/berth-switchboard": false,
		} {
			if got := s.may(t, "berth-controller", a); got != want {
				t.Errorf("%s: %t", a, got)
			}
		}
	})
	uid := c.UID
	t.Run("with the rights of that list", func(t *testing.T) {
		s.run(t, "berth-controller", 8081)
		before := c.DeepCopy()
		c.Spec.Rotation.MinVersion = 2
		if err := s.Patch(t.Context(), c, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "version 2", func() (bool, string) {
			err := s.Get(t.Context(), client.ObjectKeyFromObject(c), c)
			return err == nil && c.Status.Credential != nil && c.Status.Credential.Version == 2, ""
		})
	})
	if out, err := helm(t, s, "uninstall", "berth"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := s.Get(t.Context(), client.ObjectKey{Namespace: home, Name: "berth-controller"}, &appsv1.Deployment{}); !apierrors.IsNotFound(err) {
		t.Errorf("the controllers are still there: %v", err)
	}
	if err := s.login(t, c); err != nil {
		t.Errorf("logging in after the end of the release: %v", err)
	}
	if err := s.Delete(t.Context(), definition("databaseclaims.berth.dev")); err == nil || !strings.Contains(err.Error(), "is protected") {
		t.Errorf("after the end of the release a definition is deleted with %v", err)
	}
	s.install(t)
	s.run(t, "berth-controller", 8081)
	s.awaitReady(t, c)
	if c.UID != uid {
		t.Error("the claim is another one")
	}
}

// written is what the webhook writes into objects of the chart.
func (s *stage) written(t *testing.T) map[string][]byte {
	t.Helper()
	registration, secret := &admissionregistrationv1.MutatingWebhookConfiguration{}, &corev1.Secret{}
	eventually(t, "the authority in the registration", func() (bool, string) {
		err := s.Get(t.Context(), client.ObjectKey{Name: "berth-webhook"}, registration)
		return err == nil && len(registration.Webhooks[0].ClientConfig.CABundle) > 0, ""
	})
	if err := s.Get(t.Context(), client.ObjectKey{Namespace: home, Name: "berth-webhook"}, secret); err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, w := range registration.Webhooks {
		all[w.Name] = w.ClientConfig.CABundle
	}
	for key, value := range secret.Data {
		all[key] = value
	}
	return all
}
