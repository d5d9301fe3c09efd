//go:build e2e

package stories_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const (
	server     = "databases" // namespace of the server
	serverName = "pg." + server + ".svc"
	// propagation is shorter than kubelet's minute: the stories nudge it.
	propagation = 20 * time.Second
)

// database runs PostgreSQL 15 in a pod, as somebody else would, with a
// certificate of an authority of its own, and offers it as class default.
func (k *kit) database(t *testing.T) {
	t.Helper()
	k.namespace(t, server)
	authority, certificate, key := certificates(t)
	password := rand.Text()
	secret := func(namespace, name string, data map[string]string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, StringData: data}
	}
	k.make(t,
		secret(server, "pg", map[string]string{"password": password, "tls.crt": certificate, "tls.key": key}),
		secret(home, "pg-admin", map[string]string{"hostname": serverName, "username": "postgres", "password": password, "ca.crt": authority}),
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: server, Name: "pg"},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "pg"}, Ports: []corev1.ServicePort{{Port: 5432, TargetPort: intstr.FromInt(5432)}}},
		},
	)
	p := pod(server, "pg-0", "", map[string]string{"app": "pg"})
	p.Spec.SecurityContext.FSGroup = new(int64(999))
	c := &p.Spec.Containers[0]
	c.Command, c.Args = nil, []string{"-c", "ssl=on", "-c", "ssl_cert_file=/secret/tls.crt", "-c", "ssl_key_file=/secret/tls.key", "-c", "fsync=off"}
	c.Env = []corev1.EnvVar{{Name: "PGDATA", Value: "/data/pg"}, {Name: "POSTGRES_PASSWORD_FILE", Value: "/secret/password"}}
	mounts(p, "pg").Spec.Volumes[0].Secret.DefaultMode = new(int32(0o440))
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "data", MountPath: "/data"})
	c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"pg_isready", "-q", "-h", "127.0.0.1"}}}}
	k.make(t, p)
	class := &v1alpha1.DatabaseClass{Spec: v1alpha1.DatabaseClassSpec{
		Backend: "existing", Server: &v1alpha1.ServerAccess{SecretRef: v1alpha1.SecretReference{Namespace: home, Name: "pg-admin"}},
		Rotation: v1alpha1.RotationPolicy{Propagation: &metav1.Duration{Duration: propagation}},
	}}
	class.Name = "default"
	k.make(t, class)
	eventually(t, "PostgreSQL", 2*time.Minute, func() error {
		if err := k.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		for _, c := range p.Status.ContainerStatuses {
			if c.Ready {
				return nil
			}
		}
		return errors.New(string(p.Status.Phase))
	})
}

// asked is what the server's administrator finds in a database.
func (k *kit) asked(t *testing.T, database, sql string) string {
	t.Helper()
	said, err := k.kubectl(t, "exec", "-n", server, "pg-0", "--", "sh", "-c",
		`read -r PGPASSWORD < /secret/password || true; export PGPASSWORD; exec psql -h 127.0.0.1 -U postgres -XAt -v ON_ERROR_STOP=1 "$@"`, "sh", "-d", database, "-c", sql)
	if err != nil {
		t.Fatalf("asking %s: %v: %s", sql, err, said)
	}
	return said
}

// certificates are an authority's, and the server's with its key, as PEM.
func certificates(t *testing.T) (authority, certificate, key string) {
	t.Helper()
	of := func(name string, ca bool) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: ca, BasicConstraintsValid: ca,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		}
	}
	issue := func(template, parent *x509.Certificate, public, signer *ecdsa.PrivateKey) string {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	var keys [2]*ecdsa.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(keys[1])
	if err != nil {
		t.Fatal(err)
	}
	ca := of("stories", true)
	return issue(ca, ca, keys[0], keys[0]), issue(of(serverName, false), ca, keys[1], keys[0]),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
