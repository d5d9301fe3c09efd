//go:build e2e

package cluster_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	admission "k8s.io/api/admission/v1"
	registration "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// webhooks registers one server of this machine twice. It refuses ConfigMaps
// named after the path under which it is asked.
func webhooks(t *testing.T, k *kit, ns string) {
	authority, port := serveRefusals(t, k, "hook."+ns+".svc")
	k.create(t,
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "hook"},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443, TargetPort: intOrString(port)}}},
		},
		&discovery.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: ns, Name: "hook", Labels: map[string]string{discovery.LabelServiceName: "hook"}},
			AddressType: discovery.AddressTypeIPv4,
			Endpoints:   []discovery.Endpoint{{Addresses: []string{k.cluster.Network().Addresses().Machine}}},
			Ports:       []discovery.EndpointPort{{Port: new(int32(port))}},
		})
	url := "https://" + net.JoinHostPort(k.cluster.Network().Addresses().Machine, strconv.Itoa(port))
	for name, config := range map[string]registration.WebhookClientConfig{
		"url":     {URL: new(url + "/url")},
		"service": {Service: &registration.ServiceReference{Namespace: ns, Name: "hook", Path: new("/service")}},
	} {
		config.CABundle = authority
		hook := registration.ValidatingWebhook{
			Name: name + ".berth.dev", ClientConfig: config, AdmissionReviewVersions: []string{"v1"},
			SideEffects:       new(registration.SideEffectClassNone),
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": ns}},
			Rules: []registration.RuleWithOperations{{
				Operations: []registration.OperationType{registration.Create},
				Rule:       registration.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}},
		}
		k.create(t, &registration.ValidatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: ns + "-" + name}, Webhooks: []registration.ValidatingWebhook{hook},
		})
		eventually(t, "the refusal of "+name, func() error {
			object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
			err := k.Create(t.Context(), object, client.DryRunAll)
			if err == nil || !strings.Contains(err.Error(), "refused under /"+name) {
				return errors.Join(errors.New("it was not refused"), err)
			}
			return nil
		})
	}
}

func serveRefusals(t *testing.T, k *kit, name string) (authority []byte, port int) {
	t.Helper()
	address := net.ParseIP(k.cluster.Network().Addresses().Machine)
	authority, key, err := cert.GenerateSelfSignedCertKey(address.String(), []net.IP{address}, []string{name})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(authority, key)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(address.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, TLS: &tls.Config{Certificates: []tls.Certificate{pair}}, Config: &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var review admission.AdmissionReview
			if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
				http.Error(w, "no review", http.StatusBadRequest)
				return
			}
			review.Response = &admission.AdmissionResponse{UID: review.Request.UID, Allowed: "/"+review.Request.Name != r.URL.Path}
			if !review.Response.Allowed {
				review.Response.Result = &metav1.Status{Message: "refused under " + r.URL.Path}
			}
			_ = json.NewEncoder(w).Encode(review)
		}),
	}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return authority, listener.Addr().(*net.TCPAddr).Port
}
