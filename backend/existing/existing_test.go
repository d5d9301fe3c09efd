package existing_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/backend/backendtest"
	"github.com/berth-dev/berth/backend/existing"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
)

func TestMain(m *testing.M) {
	testkit.Main(m, func() error {
		return goleak.Find(
			// The thread that starts children lives as long as the program.
			goleak.IgnoreAnyFunction("github.com/berth-dev/berth/process.init.func1.1"))
	})
}

func TestConformance(t *testing.T) {
	t.Parallel()
	backendtest.Run(t, func(t *testing.T) backendtest.Fixture {
		namespace := testkit.Namespace(t)
		for name, major := range map[string]int{"one": 15, "two": 17} {
			write(t, namespace, name, keys(testkit.Postgres(t, major).Target()))
		}
		return backendtest.Fixture{
			Backend: existing.New(testkit.Client(t, nil)),
			One:     server(namespace, "one"), Two: server(namespace, "two"), Missing: server(namespace, "missing"),
		}
	})
}

func TestFindings(t *testing.T) {
	t.Parallel()
	namespace := testkit.Namespace(t)
	b := existing.New(testkit.Client(t, nil))
	write(t, namespace, "malformed", map[string]string{"hostname": "db", "username": "admin", "password": password, "port": "x"})
	for name, tc := range map[string]struct {
		want     backend.Server
		observed backend.Observed
	}{
		"a missing Secret may still come": {server(namespace, "missing"), backend.Observed{Reason: existing.SecretMissing,
			Message: "There is no Secret missing in namespace " + namespace + "; create it with the key uri_dsn.txt, or with hostname, username and password."}},
		"a malformed Secret needs a person": {server(namespace, "malformed"), backend.Observed{Exists: true, Permanent: true, Reason: existing.SecretMalformed,
			Message: "In Secret malformed of namespace " + namespace + ", key port must be a number from 1 to 65535."}},
		"a class without a Secret needs a person": {backend.Server{Class: &v1alpha1.DatabaseClass{}}, backend.Observed{Permanent: true, Reason: existing.SecretUnnamed,
			Message: "The class names no Secret of its server: set spec.server.secretRef."}},
		"a class that is gone needs a person": {backend.Server{}, backend.Observed{Permanent: true, Reason: existing.SecretUnnamed,
			Message: "The class names no Secret of its server: set spec.server.secretRef."}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.observed, observe(t, b, tc.want)); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestASecretThatMayNotBeReadIsAFinding(t *testing.T) {
	t.Parallel()
	namespace := testkit.Namespace(t)
	stranger, err := client.New(testkit.User(t, "stranger"), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	found := observe(t, existing.New(stranger), server(namespace, "one"))
	if found.Reason != existing.SecretUnreadable || !found.Permanent || !strings.Contains(found.Message, namespace) {
		t.Fatalf("found %+v", found)
	}
}

func TestAnAPIServerThatDoesNotAnswerIsAnError(t *testing.T) {
	t.Parallel()
	config := testkit.APIServer(t)
	config.Host = "https://127.0.0.1:1"
	dead, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if found, err := existing.New(dead).Observe(t.Context(), server("default", "one")); err == nil {
		t.Fatalf("found %+v", found)
	}
}

func TestAReadingIsTrustedForAWhile(t *testing.T) {
	t.Parallel()
	namespace := testkit.Namespace(t)
	now := time.Now()
	b := existing.New(testkit.Client(t, nil))
	b.SetClock(func() time.Time { return now })
	target := postgres.Target{Host: "first", Port: 5432, User: "admin", Password: "p", Database: "postgres", SSLMode: "disable"}
	one := server(namespace, "one")

	if found := observe(t, b, one); found.Reason != existing.SecretMissing {
		t.Fatalf("found %+v", found)
	}
	write(t, namespace, "one", keys(target))
	if found := observe(t, b, one); found.Usable {
		t.Fatal("the finding was not kept for a moment")
	}
	now = now.Add(2 * time.Second)
	if found := observe(t, b, one); found.Admin.Host != "first" {
		t.Fatalf("the new Secret is not seen after 2 s: %+v", found)
	}
	target.Host = "second"
	write(t, namespace, "one", keys(target))
	now = now.Add(29 * time.Second)
	if found := observe(t, b, one); found.Admin.Host != "first" {
		t.Fatalf("the Secret was read again within 30 s: %+v", found)
	}
	now = now.Add(time.Second)
	if found := observe(t, b, one); found.Admin.Host != "second" {
		t.Fatalf("the changed Secret is not seen after 30 s: %+v", found)
	}
}

func TestNoClassGetsTheReadingOfAnother(t *testing.T) {
	t.Parallel()
	namespace := testkit.Namespace(t)
	b := existing.New(testkit.Client(t, nil))
	for _, name := range []string{"one", "two"} {
		write(t, namespace, name, keys(postgres.Target{Host: name, Port: 5432, User: "admin", Password: "p", SSLMode: "disable"}))
	}
	for _, name := range []string{"one", "two", "one"} {
		if found := observe(t, b, server(namespace, name)); found.Admin.Host != name {
			t.Fatalf("class %s got %s", name, found.Admin)
		}
	}
	moved := server(namespace, "one")
	moved.Class.Spec.Server.SecretRef.Name = "two"
	if found := observe(t, b, moved); found.Admin.Host != "two" {
		t.Fatalf("a class with another Secret still has %s", found.Admin)
	}
}

func server(namespace, name string) backend.Server {
	class := &v1alpha1.DatabaseClass{}
	class.Name = name
	class.Spec.Server = &v1alpha1.ServerAccess{SecretRef: v1alpha1.SecretReference{Namespace: namespace, Name: name}}
	return backend.Server{ID: "class-" + name, Class: class}
}

func keys(target postgres.Target) map[string]string {
	return map[string]string{
		"hostname": target.Host, "port": strconv.Itoa(int(target.Port)), "username": target.User, "password": target.Password,
		"sslmode": target.SSLMode, "database": target.Database,
	}
}

// write makes the Secret, or gives it other data.
func write(t *testing.T, namespace, name string, data map[string]string) {
	t.Helper()
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name, secret.Data = namespace, name, bytes(data)
	c := testkit.Client(t, nil)
	err := c.Create(t.Context(), secret)
	if client.IgnoreAlreadyExists(err) == nil && err != nil {
		err = c.Update(t.Context(), secret)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func observe(t *testing.T, b *existing.Backend, want backend.Server) backend.Observed {
	t.Helper()
	found, err := b.Observe(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func certificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
