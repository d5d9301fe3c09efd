package webhook_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/webhook"
)

var update = flag.Bool("update", false, "write the golden files anew")

// pod is a pod with one container, of these labels.
func pod(labels map[string]string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{}
	p.Labels = labels
	p.Spec.Containers = []corev1.Container{{Name: "app", Image: "app:1"}}
	for _, f := range change {
		f(p)
	}
	return p
}

func own(more ...string) map[string]string { return family("berth.dev/", more...) }
func foreign(more ...string) map[string]string {
	return family("persistance.atlas.infoblox.com/", more...)
}

func family(prefix string, more ...string) map[string]string {
	labels := map[string]string{prefix + "claim": "orders"}
	for i := 0; i < len(more); i += 2 {
		labels[prefix+more[i]] = more[i+1]
	}
	return labels
}

func merged(a, b map[string]string) map[string]string {
	for k, v := range b {
		a[k] = v
	}
	return a
}

var (
	asked = webhook.Found{Exists: true, Class: "default", SecretName: "orders-db"}
	both  = []string{"dbproxy", "enabled", "dsnexec", "enabled", "dsnexec-config", "orders-exec"}
)

// patched is p as the API server would have it after the injection.
func patched(t *testing.T, p *corev1.Pod, i webhook.Injection) *corev1.Pod {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if operations := i.Patch(p); len(operations) > 0 {
		text, err := json.Marshal(operations)
		if err != nil {
			t.Fatal(err)
		}
		patch, err := jsonpatch.DecodePatch(text)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err = patch.Apply(raw); err != nil {
			t.Fatal(err)
		}
	}
	out := &corev1.Pod{}
	if err := json.Unmarshal(raw, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDecide(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		pod     *corev1.Pod
		found   webhook.Found
		want    []string // init containers afterwards
		warning string
		err     string
	}{
		"a proxy for berth's labels":              {pod(own("dbproxy", "enabled")), asked, []string{"dbproxy"}, "", ""},
		"a proxy for db-controller's labels":      {pod(foreign("dbproxy", "enabled")), asked, []string{"dbproxy"}, "", ""},
		"a dsnexec":                               {pod(own(both[2:]...)), asked, []string{"dsnexec"}, "", ""},
		"both in one call":                        {pod(foreign(both...)), asked, []string{"dbproxy", "dsnexec"}, "", ""},
		"both, from both families":                {pod(merged(own(both[:2]...), foreign(both[2:]...))), asked, []string{"dbproxy", "dsnexec"}, "", ""},
		"nothing without a claim":                 {pod(map[string]string{"berth.dev/dbproxy": "enabled"}), webhook.Found{}, nil, "is empty", ""},
		"nothing when nothing is enabled":         {pod(own("dbproxy", "disabled")), asked, nil, "", ""},
		"nothing when our label opts out":         {pod(merged(foreign("dbproxy", "enabled"), own("dbproxy", "disabled"))), asked, nil, "", ""},
		"nothing for a value that is not enabled": {pod(own("dbproxy", "true")), asked, nil, "", ""},
		"a claim of the class":                    {pod(own("dbproxy", "enabled", "class", "default")), asked, []string{"dbproxy"}, "", ""},
		"a role claim that leaves its class open": {pod(own("dbproxy", "enabled", "class", "default")), webhook.Found{Exists: true, SecretName: "x"}, []string{"dbproxy"}, "", ""},
		"nothing for a claim of another class":    {pod(own("dbproxy", "enabled", "class", "gold")), asked, nil, `is of class "default", not "gold"`, ""},
		"a claim that is not there yet":           {pod(own("dbproxy", "enabled")), webhook.Found{}, []string{"dbproxy"}, `waits for Secret "orders"`, ""},
		"a dsnexec without a configuration":       {pod(own("dsnexec", "enabled")), asked, nil, "", "label berth.dev/dsnexec-config is missing"},
		"nothing on the node's network":           {pod(own("dbproxy", "enabled"), func(p *corev1.Pod) { p.Spec.HostNetwork = true }), asked, nil, "node's network", ""},
		"before the pod's own init containers": {pod(own(both...), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "first"}, {Name: "second"}}
		}), asked, []string{"dbproxy", "dsnexec", "first", "second"}, "", ""},
		"leaves a container of the user alone": {pod(own(both...), func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "dbproxy", Image: "theirs"})
		}), asked, []string{"dsnexec"}, `has a container "dbproxy" of its own`, ""},
		"leaves an init container of the user alone": {pod(own("dbproxy", "enabled"), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "dbproxy", Image: "theirs"}}
		}), asked, []string{"dbproxy"}, `has a container "dbproxy" of its own`, ""},
		"does not take another volume for its own": {pod(own("dbproxy", "enabled"), func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "berth-credential"}}
		}), asked, nil, `another volume "berth-credential"`, ""},
		"shares the folder that the user made for dsnexec's files": {pod(own(both[2:]...), func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "berth-dsnexec", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		}), asked, []string{"dsnexec"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := tc.pod.DeepCopy()
			got, err := webhook.Decide(tc.pod, tc.found, webhook.Agent{Image: "berth:1"})
			if tc.err != "" || err != nil {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got %v, want %q", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(before, tc.pod); diff != "" {
				t.Errorf("Decide changed the pod: %s", diff)
			}
			after := patched(t, tc.pod, got)
			if diff := cmp.Diff(tc.want, names(after.Spec.InitContainers)); diff != "" {
				t.Error(diff)
			}
			if said := strings.Join(got.Warnings, "\n"); !strings.Contains(said, tc.warning) || (tc.warning == "") != (said == "") {
				t.Errorf("warnings %q, want %q", said, tc.warning)
			}
			volumes := map[string]bool{}
			for _, v := range after.Spec.Volumes {
				if volumes[v.Name] {
					t.Errorf("volume %s is there twice", v.Name)
				}
				volumes[v.Name] = true
			}
			for _, c := range got.Sidecars {
				for _, m := range c.VolumeMounts {
					if !volumes[m.Name] {
						t.Errorf("%s mounts volume %s, which is not there", c.Name, m.Name)
					}
				}
			}
			again, err := webhook.Decide(after, tc.found, webhook.Agent{Image: "berth:2"})
			if err != nil || len(again.Patch(after)) > 0 {
				t.Errorf("a second call changes %v, %v", again, err)
			}
			if diff := cmp.Diff(got.Warnings, again.Warnings); diff != "" {
				t.Errorf("a second call warns otherwise: %s", diff)
			}
		})
	}
}

func names(containers []corev1.Container) []string {
	var out []string
	for _, c := range containers {
		out = append(out, c.Name)
	}
	return out
}

func TestWhatIsInjected(t *testing.T) {
	t.Parallel()
	for file, p := range map[string]*corev1.Pod{
		"dbproxy.yaml":     pod(own("dbproxy", "enabled")),
		"switchboard.yaml": pod(own(both...), func(p *corev1.Pod) { p.Spec.ServiceAccountName = "orders" }),
		"both.yaml": pod(foreign(both...), func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.InitContainers = []corev1.Container{{Name: "migrate", Image: "app:1"}}
			p.Spec.Volumes = []corev1.Volume{{Name: "data"}}
			p.Spec.TerminationGracePeriodSeconds = ptr.To(int64(12))
		}),
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			agent := webhook.Agent{Image: "berth:1"}
			if file != "both.yaml" { // dbproxy.yaml has no account, and so no token
				agent.Switchboard = &webhook.Switchboard{Address: "berth-switchboard.berth-system.svc:9444", Authorities: "some PEM"}
			}
			injection, err := webhook.Decide(p, asked, agent)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := webhook.Decide(patched(t, p, injection), asked, agent); err != nil || len(again.Sidecars) > 0 || len(again.Volumes) > 0 {
				t.Errorf("a second call injects %v, %v", again, err)
			}
			got, err := yaml.Marshal(patched(t, p, injection))
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", file)
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (go test ./webhook -update writes it anew):\n%s", golden, diff)
			}
		})
	}
}

// The proxy is drained before the pod's time is over.
func TestTheDrainFitsTheGracePeriod(t *testing.T) {
	t.Parallel()
	for grace, want := range map[int64]string{0: "1s", 5: "1s", 10: "5s", 30: "25s", 3600: "30s"} {
		p := pod(own("dbproxy", "enabled"))
		p.Spec.TerminationGracePeriodSeconds = &grace
		injection, err := webhook.Decide(p, asked, webhook.Agent{Image: "berth:1"})
		if err != nil {
			t.Fatal(err)
		}
		command := injection.Sidecars[0].Command
		if got := command[slices.Index(command, "--drain")+1]; got != want {
			t.Errorf("with %d s the drain takes %s, want %s", grace, got, want)
		}
	}
}
