package webhook_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
)

func databaseClaim(secret string) *v1alpha1.DatabaseClaim {
	c := &v1alpha1.DatabaseClaim{}
	c.Name, c.Spec.Class, c.Spec.SecretName = "orders", "default", secret
	return c
}

func roleClaim(secret string) *v1alpha1.RoleClaim {
	c := &v1alpha1.RoleClaim{}
	c.Name, c.Spec.SourceDatabaseClaim.Name, c.Spec.SecretName = "orders", "orders", secret
	return c
}

// secretOf is the Secret that a pod's proxy logs in by.
func secretOf(p *corev1.Pod) string {
	for _, v := range p.Spec.Volumes {
		if v.Name == "berth-credential" {
			return v.Secret.SecretName
		}
	}
	return ""
}

func TestPodsGetWhatTheyAskFor(t *testing.T) {
	t.Parallel()
	api, _ := serve(t)
	for name, tc := range map[string]struct {
		claims []client.Object
		pod    *corev1.Pod
		want   []string
		secret string
		warns  string
	}{
		"berth's labels":               {[]client.Object{databaseClaim("orders-db")}, pod(own("dbproxy", "enabled")), []string{"dbproxy"}, "orders-db", ""},
		"db-controller's labels":       {[]client.Object{databaseClaim("orders-db")}, pod(foreign(both...)), []string{"dbproxy", "dsnexec"}, "orders-db", ""},
		"both families at once":        {[]client.Object{databaseClaim("orders-db")}, pod(merged(foreign(both...), own(both...))), []string{"dbproxy", "dsnexec"}, "orders-db", ""},
		"a claim that names no Secret": {[]client.Object{databaseClaim("")}, pod(own("dbproxy", "enabled")), []string{"dbproxy"}, "orders", ""},
		"a role claim":                 {[]client.Object{roleClaim("reader")}, pod(own("dbproxy", "enabled")), []string{"dbproxy"}, "reader", ""},
		"a role claim before a claim of that name": {
			[]client.Object{databaseClaim("orders-db"), roleClaim("reader")},
			pod(own("dbproxy", "enabled")), []string{"dbproxy"}, "reader", "",
		},
		"a claim that is not there yet": {nil, pod(own("dbproxy", "enabled")), []string{"dbproxy"}, "orders", `there is no DatabaseClaim or RoleClaim "orders"`},
		"a claim of another class":      {[]client.Object{databaseClaim("orders-db")}, pod(own("dbproxy", "enabled", "class", "gold")), nil, "", "nothing is injected"},
		"a Job's pod, which ends": {[]client.Object{databaseClaim("orders-db")}, pod(own(both...), func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.InitContainers = []corev1.Container{{Name: "migrate", Image: "app:1"}}
		}), []string{"dbproxy", "dsnexec", "migrate"}, "orders-db", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			namespace := testkit.Namespace(t)
			for _, c := range tc.claims {
				c.SetNamespace(namespace)
				if err := api.Create(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			heard := &warnings{}
			config := rest.CopyConfig(testkit.APIServer(t))
			config.WarningHandler = heard
			got := create(t, newAPI(t, config), namespace, tc.pod.DeepCopy())
			if diff := cmp.Diff(tc.want, names(got.Spec.InitContainers)); diff != "" {
				t.Error(diff)
			}
			if secretOf(got) != tc.secret {
				t.Errorf("it logs in by Secret %q, want %q", secretOf(got), tc.secret)
			}
			if said := strings.Join(heard.list(), "\n"); !strings.Contains(said, tc.warns) || (tc.warns == "") != (said == "") {
				t.Errorf("warnings %q, want %q", said, tc.warns)
			}
			for _, c := range got.Spec.InitContainers {
				if native := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways; native != (c.Name != "migrate") {
					t.Errorf("%s is a native sidecar: %t", c.Name, native)
				}
			}
		})
	}
}

func TestADsnexecWithoutConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	api, _ := serve(t)
	p := pod(own("dsnexec", "enabled"))
	p.Namespace, p.Name = testkit.Namespace(t), "refused"
	err := api.Create(t.Context(), p)
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "berth.dev/dsnexec-config is missing") {
		t.Errorf("got %v", err)
	}
}

// Whatever becomes of the webhook, these pods do not wait for it.
func TestPodsThatDoNotAskNeverReachUs(t *testing.T) {
	t.Parallel()
	api, calls := serve(t)
	makeNamespace(t, api, "kube-system")
	for name, tc := range map[string]struct {
		namespace string
		labels    map[string]string
	}{
		"no labels":                    {"", nil},
		"other labels":                 {"", map[string]string{"app": "orders"}},
		"a claim, and nothing enabled": {"", own()},
		"a claim, and all disabled":    {"", foreign("dbproxy", "disabled", "dsnexec", "disabled")},
		"a sidecar, and no claim":      {"", map[string]string{"berth.dev/dbproxy": "enabled"}},
		"the system's namespace":       {"kube-system", own("dbproxy", "enabled")},
		"our own namespace":            {"berth-system", foreign("dbproxy", "enabled")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			namespace := tc.namespace
			if namespace == "" {
				namespace = testkit.Namespace(t)
			}
			got := create(t, api, namespace, pod(tc.labels))
			if len(got.Spec.InitContainers) != 0 || calls.of(namespace) != 0 {
				t.Errorf("init containers %v after %d calls", names(got.Spec.InitContainers), calls.of(namespace))
			}
			if tc.namespace == "" {
				create(t, api, namespace, pod(own("dbproxy", "enabled")))
				if calls.of(namespace) != 1 {
					t.Errorf("a pod that asks makes %d calls", calls.of(namespace))
				}
			}
		})
	}
}

// A pod that exists is never touched again.
func TestAChangedPodIsLeftAlone(t *testing.T) {
	t.Parallel()
	api, calls := serve(t)
	namespace := testkit.Namespace(t)
	p := create(t, api, namespace, pod(nil, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To(int64(100)) }))
	p.Labels = own("dbproxy", "enabled")
	if err := api.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if len(p.Spec.InitContainers) != 0 || calls.of(namespace) != 0 {
		t.Errorf("init containers %v after %d calls", names(p.Spec.InitContainers), calls.of(namespace))
	}
}
