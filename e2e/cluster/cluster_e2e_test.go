//go:build e2e

package cluster_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authentication "k8s.io/api/authentication/v1"
	batch "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func intOrString(n int) intstr.IntOrString { return intstr.FromInt(n) }

// One cluster serves all promises; the last ones end it.
func TestCluster(t *testing.T) {
	before := snapshot(t)
	dir := t.TempDir()
	k := start(t, dir)
	k.importProbe(t)
	t.Run("promises", func(t *testing.T) {
		for name, promise := range map[string]func(*testing.T, *kit, string){
			"a pod answers exec and logs":                          execAndLogs,
			"a Service is found by name, and from the machine":     services,
			"a claim gets a volume, which goes with it":            volumes,
			"a projected token is good for its audience alone":     tokens,
			"policies allow what they name and nothing else":       policies,
			"a Job with a native sidecar ends":                     jobs,
			"what a Deployment owned goes with it":                 garbage,
			"admission refuses what a namespace does not allow":    podSecurity,
			"webhooks are called by URL and through a Service":     webhooks,
			"a pod reaches the API with its own ServiceAccount":    apiFromPods,
			"nothing outside this machine is within a pod's reach": noWayOut,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				namespace := strings.ToLower(strings.Join(strings.Fields(name)[:3], "-"))
				k.namespace(t, namespace, nil)
				promise(t, k, namespace)
			})
		}
	})
	t.Run("a node that was killed comes back with its pods and their data", func(t *testing.T) { restart(t, k, dir) })
	t.Run("the machine is as it was", func(t *testing.T) { before.compare(t, k.cluster.Network()) })
}

func execAndLogs(t *testing.T, k *kit, ns string) {
	k.create(t, pod(ns, "web", server("hello")))
	k.ready(t, ns, "web")
	if said, err := k.in(t, ns, "web", "get", "http://127.0.0.1:8080"); err != nil || said != "hello" {
		t.Errorf("exec: %q, %v", said, err)
	}
	if said, err := k.kubectl(t, "logs", "--namespace", ns, "web"); err != nil || said != "serving" {
		t.Errorf("logs: %q, %v", said, err)
	}
}

func services(t *testing.T, k *kit, ns string) {
	web := service(ns, "greeting", "web")
	k.create(t, deployment(ns, "web", server("hi")), web, pod(ns, "client", server("hello")))
	k.ready(t, ns, "client")
	for _, name := range []string{"greeting", "greeting." + ns, "greeting." + ns + ".svc.cluster.local"} {
		k.says(t, ns, "client", "hi", "get", "http://"+name)
	}
	response, err := http.Get("http://" + web.Spec.ClusterIP)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "hi\n" {
		t.Errorf("from the machine: %q, %v", body, err)
	}
	if said, err := k.in(t, ns, "client", "lookup", "nobody.example.com"); err == nil || !strings.Contains(said, "no such host") {
		t.Errorf("a name that does not exist: %q, %v", said, err)
	}
}

// claim is mounted at /data by withVolume.
func claim(ns, name string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}
	return c
}

func withVolume(spec *corev1.PodSpec, source corev1.VolumeSource) {
	spec.Volumes = append(spec.Volumes, corev1.Volume{Name: "data", VolumeSource: source})
	spec.Containers[0].VolumeMounts = append(spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "data", MountPath: "/data"})
}

func claimed(name string) corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
}

func volumes(t *testing.T, k *kit, ns string) {
	c := claim(ns, "files")
	writer, reader := pod(ns, "writer", server("hello")), pod(ns, "reader", server("hello"))
	withVolume(&writer.Spec, claimed("files"))
	withVolume(&reader.Spec, claimed("files"))
	k.create(t, c, writer)
	k.ready(t, ns, "writer")
	k.says(t, ns, "writer", "", "write", "/data/note", "kept")
	k.create(t, reader)
	k.ready(t, ns, "reader")
	k.says(t, ns, "reader", "kept", "read", "/data/note")

	if err := k.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
		t.Fatal(err)
	}
	for _, object := range []client.Object{writer, reader, c} {
		if err := k.Delete(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the volume's end", func() error {
		err := k.Get(t.Context(), client.ObjectKey{Name: c.Spec.VolumeName}, &corev1.PersistentVolume{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the volume is there: %w", cmp.Or(err, os.ErrExist))
		}
		_, err = os.Stat(filepath.Join(filepath.Dir(k.cluster.Kubeconfig()), "volumes", c.Spec.VolumeName))
		if !os.IsNotExist(err) {
			return fmt.Errorf("its folder is there: %w", cmp.Or(err, os.ErrExist))
		}
		return nil
	})
}

func tokens(t *testing.T, k *kit, ns string) {
	holder := pod(ns, "holder", server("hello"))
	withVolume(&holder.Spec, corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
		ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "db.example", ExpirationSeconds: new(int64(600)), Path: "token"},
	}}}})
	k.create(t, holder)
	k.ready(t, ns, "holder")
	token, err := k.in(t, ns, "holder", "read", "/data/token")
	if err != nil {
		t.Fatal(err)
	}
	for audience, good := range map[string]bool{"db.example": true, "other.example": false} {
		review := &authentication.TokenReview{Spec: authentication.TokenReviewSpec{Token: token, Audiences: []string{audience}}}
		k.create(t, review)
		if review.Status.Authenticated != good {
			t.Errorf("for %s: authenticated = %v", audience, review.Status.Authenticated)
		}
		if user := "system:serviceaccount:" + ns + ":default"; good && review.Status.User.Username != user {
			t.Errorf("the user is %s", review.Status.User.Username)
		}
	}
}

func policies(t *testing.T, k *kit, ns string) {
	other := ns + "-other"
	k.namespace(t, other, map[string]string{"team": "other"})
	k.create(t, deployment(ns, "web", server("hi")), service(ns, "greeting", "web"),
		pod(ns, "friend", server("hello")), pod(ns, "stranger", server("hello")), pod(ns, "captive", server("hello")), pod(other, "friend", server("hello")))
	url := "http://greeting." + ns
	for _, name := range []string{"friend", "stranger", "captive"} {
		k.ready(t, ns, name)
		k.says(t, ns, name, "hi", "get", url)
	}
	k.ready(t, other, "friend")
	k.says(t, other, "friend", "hi", "get", url)

	to := func(app string) metav1.LabelSelector {
		return metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
	}
	selected := func(s metav1.LabelSelector) []networking.NetworkPolicyPeer {
		return []networking.NetworkPolicyPeer{{PodSelector: &s}}
	}
	web, udp := intstr.FromString("web"), corev1.ProtocolUDP
	k.create(t,
		&networking.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "friends"},
			Spec: networking.NetworkPolicySpec{PodSelector: to("web"), Ingress: []networking.NetworkPolicyIngressRule{{
				From: append(selected(to("friend")), selected(to("captive"))...), Ports: []networking.NetworkPolicyPort{{Port: &web}},
			}}},
		},
		&networking.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "captive"},
			Spec: networking.NetworkPolicySpec{PodSelector: to("captive"), PolicyTypes: []networking.PolicyType{networking.PolicyTypeEgress},
				Egress: []networking.NetworkPolicyEgressRule{
					{To: selected(to("web"))},
					{
						To: []networking.NetworkPolicyPeer{{
							NamespaceSelector: &metav1.LabelSelector{},
							PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}},
						}},
						Ports: []networking.NetworkPolicyPort{{Protocol: &udp, Port: new(intstr.FromInt(53))}},
					},
				}},
		})
	friend := k.ready(t, ns, "friend")
	k.refused(t, ns, "stranger", url)
	k.refused(t, other, "friend", url)
	k.refused(t, ns, "captive", "http://"+friend.Status.PodIP+":8080")
	k.says(t, ns, "friend", "hi", "get", url)
	k.says(t, ns, "captive", "hi", "get", url)

	if err := k.DeleteAllOf(t.Context(), &networking.NetworkPolicy{}, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	k.says(t, ns, "stranger", "hi", "get", url)
}

func jobs(t *testing.T, k *kit, ns string) {
	sidecar := server("hello")
	sidecar.Name, sidecar.RestartPolicy = "sidecar", new(corev1.ContainerRestartPolicyAlways)
	sidecar.StartupProbe, sidecar.ReadinessProbe = sidecar.ReadinessProbe, nil
	spec := pod(ns, "work", probe("get", "http://127.0.0.1:8080")).Spec
	spec.InitContainers, spec.RestartPolicy = []corev1.Container{sidecar}, corev1.RestartPolicyNever
	job := &batch.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "work"},
		Spec:       batch.JobSpec{BackoffLimit: new(int32(0)), Template: corev1.PodTemplateSpec{Spec: spec}},
	}
	k.create(t, job)
	eventually(t, "the job's end", func() error {
		if err := k.Get(t.Context(), client.ObjectKeyFromObject(job), job); err != nil {
			return err
		}
		if job.Status.Failed > 0 {
			t.Fatal("it failed")
		}
		if job.Status.CompletionTime == nil {
			return errors.New("it runs")
		}
		return nil
	})
}

func garbage(t *testing.T, k *kit, ns string) {
	web := deployment(ns, "web", server("hello"))
	k.create(t, web)
	pods := func() int {
		list := &corev1.PodList{}
		if err := k.List(t.Context(), list, client.InNamespace(ns)); err != nil {
			t.Fatal(err)
		}
		return len(list.Items)
	}
	eventually(t, "the pod", func() error {
		if pods() != 1 {
			return errors.New("there is none")
		}
		return nil
	})
	if err := k.Delete(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod's end", func() error {
		if pods() != 0 {
			return errors.New("it is there")
		}
		return nil
	})
}

func podSecurity(t *testing.T, k *kit, ns string) {
	k.namespace(t, ns+"-restricted", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	err := k.Create(t.Context(), pod(ns+"-restricted", "plain", server("hello")))
	if !apierrors.IsForbidden(err) {
		t.Errorf("a plain pod in a restricted namespace: %v", err)
	}
}

// apiFromPods lets a pod ask the API about itself; without rights it is told so,
// which takes a token that is good and a certificate that fits the Service.
func apiFromPods(t *testing.T, k *kit, ns string) {
	k.create(t, pod(ns, "client", server("hello")))
	k.ready(t, ns, "client")
	said, err := k.in(t, ns, "client", "get", "https://kubernetes.default.svc/api/v1/namespaces/"+ns+"/pods")
	if err != nil || !strings.Contains(said, `system:serviceaccount:`+ns+`:default\" cannot list`) {
		t.Errorf("the API says %q, %v", said, err)
	}
}

func noWayOut(t *testing.T, k *kit, ns string) {
	k.create(t, pod(ns, "client", server("hello")))
	k.ready(t, ns, "client")
	said, err := k.in(t, ns, "client", "get", "http://192.0.2.1") // an address kept for documentation
	if err == nil || !strings.Contains(said, "unreachable") {
		t.Errorf("from a pod to another network: %q, %v", said, err)
	}
}

func restart(t *testing.T, k *kit, dir string) {
	const ns = "restart"
	k.namespace(t, ns, nil)
	keeper := pod(ns, "keeper", server("hello"))
	withVolume(&keeper.Spec, claimed("files"))
	k.create(t, claim(ns, "files"), keeper)
	k.ready(t, ns, "keeper")
	k.says(t, ns, "keeper", "", "write", "/data/note", "kept")
	old := k
	if err := k.cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	k = start(t, dir)
	if err := old.Get(t.Context(), client.ObjectKeyFromObject(keeper), keeper); err != nil {
		t.Errorf("with the access of before: %v", err)
	}
	k.says(t, ns, "keeper", "kept", "read", "/data/note")
	k.create(t, pod(ns, "later", server("hello")))
	k.ready(t, ns, "later")
	if err := k.cluster.Stop(); err != nil {
		t.Fatal(err)
	}
}
