package webhook_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	deploy "github.com/berth-dev/berth/deploy/webhook"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/webhook"
)

func registration(t *testing.T, api client.Client) *admissionregistrationv1.MutatingWebhookConfiguration {
	t.Helper()
	r := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := api.Get(t.Context(), client.ObjectKey{Name: "berth-webhook"}, r); err != nil {
		t.Fatal(err)
	}
	return r
}

// ask connects as an API server that trusts bundle, and returns the certificate
// it was shown.
func ask(address string, bundle []byte) (*x509.Certificate, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// Through a whole life of an authority no connection is refused, neither by
// who has just read the registration nor by who read it a second ago, and no
// pod is.
func TestCertificatesAreRenewedWithoutARefusal(t *testing.T) {
	t.Parallel()
	api, _ := serve(t)
	namespace := testkit.Namespace(t)
	type version struct {
		at     time.Time
		bundle []byte
	}
	first := registration(t, api)
	to, err := url.Parse(*first.Webhooks[0].ClientConfig.URL)
	if err != nil {
		t.Fatal(err)
	}
	known := []version{{time.Now(), first.Webhooks[0].ClientConfig.CABundle}}
	leaves, made := map[string]bool{}, 0
	renewed := func(leaf *x509.Certificate) bool {
		block, _ := pem.Decode(known[0].bundle)
		authority, err := x509.ParseCertificate(block.Bytes)
		return err == nil && leaf.CheckSignatureFrom(authority) != nil
	}
	eventually(t, "a certificate of the next authority", func() bool {
		now := registration(t, api).Webhooks[0].ClientConfig.CABundle
		known = append(known, version{time.Now(), now})
		leaf, err := ask(to.Host, now)
		if err != nil {
			t.Fatalf("who knows the registration of now: %v", err)
		}
		for i := len(known) - 1; i >= 0; i-- {
			if time.Since(known[i].at) > time.Second {
				if _, err := ask(to.Host, known[i].bundle); err != nil {
					t.Fatalf("who knows the registration of a second ago: %v", err)
				}
				break
			}
		}
		if got := create(t, api, namespace, pod(own("dbproxy", "enabled"))); len(got.Spec.InitContainers) != 1 {
			t.Fatal("a pod was not injected")
		}
		made++
		leaves[leaf.SerialNumber.String()] = true
		return renewed(leaf)
	})
	if len(leaves) < 3 {
		t.Errorf("only %d certificates were served", len(leaves))
	}
	t.Logf("%d pods were made while %d certificates were served", made, len(leaves))
}

// What a person changes in the registration of this machine is put right at the
// next look.
func TestALocalRegistrationIsPutRight(t *testing.T) {
	t.Parallel()
	api, _ := serve(t)
	eventually(t, "a change by hand", func() bool {
		r := registration(t, api)
		r.Webhooks[0].TimeoutSeconds = ptr.To(int32(7))
		return api.Update(t.Context(), r) == nil
	})
	eventually(t, "the registration to be as it was", func() bool {
		r := registration(t, api)
		return *r.Webhooks[0].TimeoutSeconds == 5
	})
}

// In a cluster somebody else installs the registration, and only the authority
// in it is ours.
func TestAClustersRegistrationGetsItsAuthorityAndNothingElse(t *testing.T) {
	t.Parallel()
	api := newAPI(t, testkit.APIServer(t))
	r := webhook.Registration{API: api, Name: testkit.Namespace(t)}
	bundle := encoded(t)
	if err := r.Publish(t.Context(), bundle); !apierrors.IsNotFound(err) {
		t.Fatalf("without a registration: %v", err)
	}
	installed := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := yaml.UnmarshalStrict(deploy.Configuration, installed); err != nil {
		t.Fatal(err)
	}
	installed.Name = r.Name
	for i := range installed.Webhooks {
		installed.Webhooks[i].NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"nobody": "has-this"}}
		installed.Webhooks[i].TimeoutSeconds = ptr.To(int32(3))
	}
	if err := api.Create(t.Context(), installed); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Delete(context.Background(), installed); err != nil {
			t.Error(err)
		}
	})
	want := installed.DeepCopy()
	for i := range want.Webhooks {
		want.Webhooks[i].ClientConfig.CABundle = bundle
	}
	for range 2 {
		if err := r.Publish(t.Context(), bundle); err != nil {
			t.Fatal(err)
		}
		got := &admissionregistrationv1.MutatingWebhookConfiguration{}
		if err := api.Get(t.Context(), client.ObjectKeyFromObject(installed), got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Webhooks, got.Webhooks); diff != "" {
			t.Error(diff)
		}
		if got.Generation != 2 {
			t.Errorf("it was written %d times", got.Generation-1)
		}
	}
}

// encoded is an authority as PEM.
func encoded(t *testing.T) (bundle []byte) {
	t.Helper()
	c := newCertificates(newAPI(t, testkit.APIServer(t)), testkit.Namespace(t), func(_ context.Context, b []byte) error { bundle = b; return nil })
	if err := c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return bundle
}

func newCertificates(api client.Client, namespace string, publish func(context.Context, []byte) error) *webhook.Certificates {
	return &webhook.Certificates{
		API: api, Secret: client.ObjectKey{Namespace: namespace, Name: "shared"}, Names: []string{"127.0.0.1"},
		Log: slog.New(slog.DiscardHandler), Publish: publish,
	}
}

func fingerprint(t *testing.T, c *webhook.Certificates) string {
	t.Helper()
	got, err := c.Get(nil)
	if err != nil {
		t.Fatal(err)
	}
	return got.Leaf.SerialNumber.String()
}

func published(context.Context, []byte) error { return nil }

// Replicas that start at once agree on one certificate.
func TestReplicasShareTheirCertificates(t *testing.T) {
	t.Parallel()
	api, namespace := newAPI(t, testkit.APIServer(t)), testkit.Namespace(t)
	var replicas []*webhook.Certificates
	var all sync.WaitGroup
	for range 8 {
		c := newCertificates(api, namespace, published)
		replicas = append(replicas, c)
		all.Go(func() {
			if err := c.Refresh(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	want := fingerprint(t, replicas[0])
	for _, c := range replicas {
		if got := fingerprint(t, c); got != want {
			t.Errorf("one serves %s, another %s", want, got)
		}
	}
}

func TestALostOrSpoiltSecretIsWrittenAgainAsItWas(t *testing.T) {
	t.Parallel()
	api, namespace := newAPI(t, testkit.APIServer(t)), testkit.Namespace(t)
	c := newCertificates(api, namespace, published)
	if err := c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := fingerprint(t, c)
	secret := &corev1.Secret{}
	for name, spoil := range map[string]func() error{
		"lost":   func() error { return api.Delete(t.Context(), secret) },
		"spoilt": func() error { secret.Data["tls.key"] = []byte("x"); return api.Update(t.Context(), secret) },
	} {
		if err := api.Get(t.Context(), c.Secret, secret); err != nil {
			t.Fatal(err)
		}
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if err := c.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		restarted := newCertificates(api, namespace, published)
		if err := restarted.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := fingerprint(t, restarted); got != want || fingerprint(t, c) != want {
			t.Errorf("%s: a restarted replica serves another certificate", name)
		}
	}
}

// Clients that could not be told of an authority do not get its certificate.
func TestNothingNewIsServedBeforeItIsPublished(t *testing.T) {
	t.Parallel()
	api, namespace := newAPI(t, testkit.APIServer(t)), testkit.Namespace(t)
	refused := error(nil)
	c := newCertificates(api, namespace, func(context.Context, []byte) error { return refused })
	if err := c.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := fingerprint(t, c)
	refused = errors.New("refused")
	c.Names = []string{"127.0.0.2"}
	if err := c.Refresh(t.Context()); !errors.Is(err, refused) || fingerprint(t, c) != before {
		t.Errorf("it serves the new certificate after %v", err)
	}
	refused = nil
	if err := c.Refresh(t.Context()); err != nil || fingerprint(t, c) == before {
		t.Errorf("it still serves the old certificate after %v", err)
	}
}

// With cert-manager the files are served as they are, and followed.
func TestFilesOfSomebodyElseAreServed(t *testing.T) {
	t.Parallel()
	api := newAPI(t, testkit.APIServer(t))
	folder := t.TempDir()
	write := func() (bundle []byte) {
		namespace := testkit.Namespace(t)
		c := newCertificates(api, namespace, func(_ context.Context, b []byte) error { bundle = b; return nil })
		if err := c.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		secret := &corev1.Secret{}
		if err := api.Get(t.Context(), c.Secret, secret); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"tls.crt", "tls.key"} {
			if err := os.WriteFile(filepath.Join(folder, name), secret.Data[name], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return bundle
	}
	bundle := write()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- webhook.Serve(ctx, webhook.Options{API: api, Listener: listener, CertificateFolder: folder, Log: slog.New(slog.DiscardHandler)})
	}()
	for range 2 {
		eventually(t, "the certificate", func() bool {
			_, err := ask(listener.Addr().String(), bundle)
			return err == nil
		})
		bundle = write()
	}
	roots := x509.NewCertPool()
	eventually(t, "an answer about its health", func() bool {
		roots.AppendCertsFromPEM(bundle)
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true}}
		response, err := client.Get("https://" + listener.Addr().String() + "/healthz")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
