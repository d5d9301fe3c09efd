//go:build e2e

package stories_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/e2e/cluster"
	"github.com/berth-dev/berth/process"
)

const (
	root          = "../.."
	home          = "berth-system"
	postgresImage = "berth-e2e/postgres:15"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard()) // clients say nothing that the tests do not
	os.Exit(m.Run())
}

// kit is a cluster with the chart on it, as its administrator sees it.
type kit struct {
	client.Client
	cluster *cluster.Cluster
	dir     string
}

func begin(t *testing.T) *kit {
	t.Helper()
	for _, file := range []string{"bin/e2e/node", "bin/helm", "bin/images/berth.tar", "bin/images/postgres-15.tar"} {
		if _, err := os.Stat(filepath.Join(root, file)); err != nil {
			t.Fatalf("%v; run: make node-tools images", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	began, dir := time.Now(), t.TempDir()
	c, err := cluster.Start(ctx, cluster.Options{Dir: dir, Bin: filepath.Join(root, "bin")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	for _, image := range []string{"berth", "postgres-15"} {
		if err := c.Import(ctx, filepath.Join(root, "bin/images", image+".tar")); err != nil {
			t.Fatal(err)
		}
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	api, err := client.New(c.Config(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	k := &kit{Client: api, cluster: c, dir: dir}
	t.Cleanup(func() {
		if t.Failed() {
			k.describe(t)
		}
	})
	t.Logf("%5.1f s  the node runs, with the images", time.Since(began).Seconds())
	k.namespace(t, home)
	k.install(t)
	eventually(t, "the switchboard, of which pods learn when they are made", time.Minute, func() error {
		notice := &corev1.ConfigMap{}
		err := k.Get(ctx, client.ObjectKey{Namespace: home, Name: "berth-switchboard"}, notice)
		if err == nil && notice.Data["address"] == "" {
			err = errors.New("nobody leads yet")
		}
		return err
	})
	t.Logf("%5.1f s  the chart is installed and ready", time.Since(began).Seconds())
	return k
}

// install installs or upgrades the chart and waits until it is ready.
func (k *kit) install(t *testing.T, values ...string) {
	t.Helper()
	at := k.cluster.Network().Addresses()
	args := []string{
		"upgrade", "--install", "berth", filepath.Join(root, "deploy/chart"), "--namespace", home, "--kubeconfig", k.cluster.Kubeconfig(),
		"--wait", "--timeout", "3m", "--set", "networkPolicy.apiServer.cidrs={" + at.Node + "/32}", "--set", "networkPolicy.apiServer.ports={6443}",
	}
	for _, value := range values {
		args = append(args, "--set", value)
	}
	state := t.TempDir()
	if out, err := run(t, "bin/helm", []string{"HELM_CACHE_HOME=" + state, "HELM_CONFIG_HOME=" + state, "HELM_DATA_HOME=" + state}, args...); err != nil {
		t.Fatalf("installing: %v\n%s", err, out)
	}
}

func run(t *testing.T, program string, env []string, args ...string) (string, error) {
	t.Helper()
	return runSpec(t, process.Spec{Path: filepath.Join(root, program), Args: args, Env: append(os.Environ(), env...)})
}

func runSpec(t *testing.T, spec process.Spec) (string, error) {
	t.Helper()
	var out bytes.Buffer
	spec.Log = &out
	err := process.Run(context.WithoutCancel(t.Context()), spec)
	return strings.TrimSpace(out.String()), err
}

// kill ends the first container of a pod as running out of memory would.
func (k *kit) kill(t *testing.T, namespace, name string) {
	t.Helper()
	p := &corev1.Pod{}
	if err := k.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, p); err != nil {
		t.Fatal(err)
	}
	id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	args := []string{"--address", "containerd.sock", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", id}
	if out, err := runSpec(t, process.Spec{Path: "ctr", Args: args, Dir: k.dir}); err != nil {
		t.Fatalf("killing %s: %v: %s", name, err, out)
	}
}

func (k *kit) kubectl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return run(t, "bin/k8s/kubectl", nil, append([]string{"--kubeconfig", k.cluster.Kubeconfig()}, args...)...)
}

// describe is what a person would look at first after a failure.
func (k *kit) describe(t *testing.T) {
	t.Helper()
	for _, args := range [][]string{
		{"get", "pods,jobs,databaseclaims,databaseclasses", "-A", "-o", "wide"},
		{"get", "events", "-A", "--field-selector", "type=Warning"},
		{"logs", "-n", home, "-l", "app.kubernetes.io/name=berth", "--tail", "30", "--prefix"},
	} {
		out, _ := k.kubectl(t, args...)
		t.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
	}
}

// namespace makes one in which pods can be made that keep the strictest pod security.
func (k *kit) namespace(t *testing.T, name string) {
	t.Helper()
	k.make(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}}})
	eventually(t, "the default ServiceAccount", time.Minute, func() error {
		return k.Get(t.Context(), client.ObjectKey{Namespace: name, Name: "default"}, &corev1.ServiceAccount{})
	})
}

func (k *kit) make(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := k.Create(t.Context(), o); err != nil {
			t.Fatalf("making %T %s: %v", o, o.GetName(), err)
		}
	}
}

// claim makes a claim and waits until it is Ready.
func (k *kit) claim(t *testing.T, namespace, name string) *v1alpha1.DatabaseClaim {
	t.Helper()
	c := &v1alpha1.DatabaseClaim{Spec: v1alpha1.DatabaseClaimSpec{
		DatabaseName: name, SecretTemplate: map[string]v1alpha1.Template{"ca.crt": "{{ .CA }}"},
	}}
	c.Namespace, c.Name = namespace, name
	k.make(t, c)
	k.awaitReady(t, c, time.Minute)
	return c
}

func (k *kit) awaitReady(t *testing.T, c *v1alpha1.DatabaseClaim, within time.Duration) {
	t.Helper()
	eventually(t, "claim "+c.Name, within, func() error {
		if err := k.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.Ready) {
			return fmt.Errorf("it is not Ready: %v", c.Status.Conditions)
		}
		return nil
	})
}

// pod is one that keeps the strictest pod security and runs a script with psql.
func pod(namespace, name, script string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(10)), SecurityContext: tight(),
			Containers: []corev1.Container{shell("app", script)},
		},
	}
}

func tight() *corev1.PodSecurityContext {
	return &corev1.PodSecurityContext{RunAsNonRoot: new(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
}

func shell(name, script string) corev1.Container {
	return corev1.Container{
		Name: name, Image: postgresImage, ImagePullPolicy: corev1.PullNever, Command: []string{"sh", "-euc", script},
		SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
	}
}

// beside is how a program reaches the database through its dbproxy.
func beside(c corev1.Container, database string) corev1.Container {
	c.Env = []corev1.EnvVar{{Name: "PGHOST", Value: "127.0.0.1"}, {Name: "PGUSER", Value: "app"}, {Name: "PGDATABASE", Value: database}}
	return c
}

func asks(claim string, more ...string) map[string]string {
	labels := map[string]string{"berth.dev/claim": claim}
	for i := 0; i < len(more); i += 2 {
		labels["berth.dev/"+more[i]] = more[i+1]
	}
	return labels
}

// bySecret is a script's beginning that logs in by the Secret mounted at
// /secret, with nothing of it in an argument.
const bySecret = `
take() { read -r value < "/secret/$2" || true; export "$1=$value"; }
take PGHOST hostname; take PGPORT port; take PGUSER username; take PGPASSWORD password; take PGSSLMODE sslmode
export PGSSLROOTCERT=/secret/ca.crt PGDATABASE="${DATABASE:-$(read -r value < /secret/database || true; echo "$value")}"
`

// mounts has p see a Secret at /secret.
func mounts(p *corev1.Pod, secret string) *corev1.Pod {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}})
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "secret", MountPath: "/secret"}}
	return p
}

// ends waits until a pod has ended, and returns what its program said.
func (k *kit) ends(t *testing.T, p *corev1.Pod, phase corev1.PodPhase) string {
	t.Helper()
	eventually(t, "the end of pod "+p.Name, 2*time.Minute, func() error {
		if err := k.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			return errors.New(string(p.Status.Phase))
		}
		return nil
	})
	said, err := k.kubectl(t, "logs", "-n", p.Namespace, p.Name, "-c", "app")
	if err != nil || p.Status.Phase != phase {
		t.Errorf("pod %s ended as %s (%v) and said: %s", p.Name, p.Status.Phase, err, said)
	}
	return said
}

func eventually(t *testing.T, what string, within time.Duration, holds func() error) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(within)
	for {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waiting for %s: %v", what, err)
		case <-tick.C:
		}
	}
}
