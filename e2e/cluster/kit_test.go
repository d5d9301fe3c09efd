//go:build e2e

package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/e2e/cluster"
	"github.com/berth-dev/berth/e2e/image"
	"github.com/berth-dev/berth/process"
)

const (
	bin        = "../../bin"
	probeImage = "local/probe:1"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard()) // clients say nothing that the tests do not
	os.Exit(m.Run())
}

// kit is a running cluster with the probe's image on it.
type kit struct {
	client.Client
	cluster *cluster.Cluster
}

func start(t *testing.T, dir string) *kit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	began := time.Now()
	c, err := cluster.Start(ctx, cluster.Options{Dir: dir, Bin: bin, Progress: func(stage string) {
		t.Logf("%5.1f s  %s", time.Since(began).Seconds(), stage)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%5.1f s  ready", time.Since(began).Seconds())
	t.Cleanup(func() { _ = c.Stop() }) // a test that cares stops it itself
	api, err := client.New(c.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &kit{Client: api, cluster: c}
}

func (k *kit) importProbe(t *testing.T) {
	t.Helper()
	files := image.NewTree()
	if err := files.Add("/probe", filepath.Join(bin, "e2e", "probe")); err != nil {
		t.Fatalf("%v; run: make node-tools", err)
	}
	archive := filepath.Join(t.TempDir(), "probe.tar")
	probe := image.Image{Architecture: runtime.GOARCH, Files: files, Entrypoint: []string{"/probe"}, User: "65532:65532"}
	if err := image.Write(archive, probeImage, probe); err != nil {
		t.Fatal(err)
	}
	if err := k.cluster.Import(t.Context(), archive); err != nil {
		t.Fatal(err)
	}
}

// namespace makes one that pods can be made in.
func (k *kit) namespace(t *testing.T, name string, labels map[string]string) {
	t.Helper()
	k.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
	eventually(t, "the default ServiceAccount", func() error {
		return k.Get(t.Context(), client.ObjectKey{Namespace: name, Name: "default"}, &corev1.ServiceAccount{})
	})
}

func (k *kit) create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, object := range objects {
		if err := k.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
}

func probe(args ...string) corev1.Container {
	return corev1.Container{Name: "probe", Image: probeImage, Args: args, ImagePullPolicy: corev1.PullNever}
}

// server is a probe that is ready once it answers.
func server(answer string) corev1.Container {
	c := probe("serve", answer)
	c.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
	c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1}
	c.ReadinessProbe.HTTPGet = &corev1.HTTPGetAction{Port: intOrString(8080)}
	return c
}

func pod(namespace, name string, container corev1.Container) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{container}, TerminationGracePeriodSeconds: new(int64(1)),
		},
	}
}

func deployment(namespace, name string, container corev1.Container) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod(namespace, name, container).Spec},
		},
	}
}

func service(namespace, name, app string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": app},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intOrString(8080)}},
		},
	}
}

// ready waits for a pod, and returns it.
func (k *kit) ready(t *testing.T, namespace, name string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{}
	eventually(t, "pod "+name, func() error {
		if err := k.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, p); err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("it is not ready: %s", states(p))
	})
	return p
}

func states(p *corev1.Pod) string {
	said := string(p.Status.Phase)
	for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if waiting := c.State.Waiting; waiting != nil {
			said += fmt.Sprintf("; %s: %s %s", c.Name, waiting.Reason, waiting.Message)
		}
	}
	return said
}

func (k *kit) kubectl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var said bytes.Buffer
	err := process.Run(t.Context(), process.Spec{
		Path: filepath.Join(bin, "k8s", "kubectl"),
		Args: append([]string{"--kubeconfig", k.cluster.Kubeconfig()}, args...),
		Log:  &said,
	})
	return strings.TrimSpace(said.String()), err
}

// in runs the probe inside a pod.
func (k *kit) in(t *testing.T, namespace, name string, args ...string) (string, error) {
	t.Helper()
	return k.kubectl(t, append([]string{"exec", "--namespace", namespace, name, "--", "/probe"}, args...)...)
}

// says waits until the probe inside a pod answers want.
func (k *kit) says(t *testing.T, namespace, name, want string, args ...string) {
	t.Helper()
	eventually(t, name+" "+strings.Join(args, " "), func() error {
		said, err := k.in(t, namespace, name, args...)
		if err == nil && said != want {
			err = errors.New("that is not " + want)
		}
		if err != nil {
			return fmt.Errorf("%w: %s", err, said)
		}
		return nil
	})
}

// refused waits until the probe inside a pod cannot reach a URL.
func (k *kit) refused(t *testing.T, namespace, name, url string) {
	t.Helper()
	eventually(t, name+" is kept from "+url, func() error {
		if said, err := k.in(t, namespace, name, "get", url); err == nil {
			return errors.New("it got " + said)
		}
		return nil
	})
}

func eventually(t *testing.T, what string, holds func() error) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
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
