package chart_test

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// everything turns on all that the values can.
var everything = []string{
	"monitoring.enabled=true", "tenantNamespaces={shop,mail}",
	"networkPolicy.apiServer.cidrs={10.0.0.1/32}", "imagePullSecrets={registry}",
	"image.digest=sha256:" + strings.Repeat("ab", 32), "controller.priorityClassName=system-cluster-critical",
	"controller.nodeSelector.disk=ssd", "controller.tolerations[0].key=dedicated",
}

// render is what the chart makes of values, with the definitions left out.
func render(t *testing.T, values ...string) []*unstructured.Unstructured {
	t.Helper()
	out, err := helm(t, nil, append([]string{"template", "berth", "."}, set(values)...)...)
	if err != nil {
		t.Fatalf("rendering: %v\n%s", err, out)
	}
	return decode(t, out)
}

func decode(t *testing.T, text string) (objects []*unstructured.Unstructured) {
	t.Helper()
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := decoder.Decode(&o.Object); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatal(err)
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

func TestValuesThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		flags     []string
		want      string
		namespace string
	}{
		"a value that does not exist":      {flags: set([]string{"replicas=3"}), want: "replicas"},
		"a misspelt value inside another":  {flags: set([]string{"controller.replica=3"}), want: "replica"},
		"no replica":                       {flags: set([]string{"webhook.replicas=0"}), want: "webhook/replicas"},
		"text where a number belongs":      {flags: []string{"--set-string", "controller.replicas=two"}, want: "controller/replicas"},
		"an unknown pull policy":           {flags: set([]string{"image.pullPolicy=Sometimes"}), want: "image/pullPolicy"},
		"a digest that is none":            {flags: set([]string{"image.digest=latest"}), want: "image/digest"},
		"an address that is no range":      {flags: set([]string{"networkPolicy.databases.cidrs={10.0.0.1}"}), want: "databases/cidrs"},
		"a port that does not exist":       {flags: set([]string{"networkPolicy.databases.ports={70000}"}), want: "databases/ports"},
		"an interval without a unit":       {flags: set([]string{"monitoring.interval=30"}), want: "monitoring/interval"},
		"a namespace that is not its home": {namespace: "elsewhere", want: "berth runs in the namespace berth-system"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"template", "berth", "."}, tc.flags...)
			out, err := helmIn(t, nil, cmp.Or(tc.namespace, home), args...)
			if err == nil || !strings.Contains(out, tc.want) {
				t.Errorf("Helm ends with %v, and does not speak of %q:\n%s", err, tc.want, out)
			}
		})
	}
}

func TestLintFindsNothing(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{"the defaults": nil, "everything": everything} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, err := helm(t, nil, append([]string{"lint", ".", "--strict"}, set(values)...)...); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// The chart carries copies, since Helm reads nothing outside of it.
func TestCopiesAreWhatTheyAreCopiesOf(t *testing.T) {
	t.Parallel()
	for copied, original := range map[string]string{"files/crds": "../crds", "files/admission": "../admission", "files/webhook": "../webhook"} {
		want, have := manifests(t, original), manifests(t, copied)
		if len(want) == 0 {
			t.Errorf("there is nothing in %s", original)
		}
		if diff := gocmp.Diff(want, have); diff != "" {
			t.Errorf("%s; run: make generate\n%s", copied, diff)
		}
	}
}

func manifests(t *testing.T, folder string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(folder), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(filepath.Join(folder, name))
		files[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Who has no Helm applies the bundle, which is the chart with its defaults.
func TestTheBundleIsWhatTheChartRenders(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../bundle/berth.yaml")
	if err != nil {
		t.Fatal(err)
	}
	have := decode(t, string(text))
	if len(have) == 0 || have[0].GetKind() != "Namespace" || have[0].GetLabels()["pod-security.kubernetes.io/enforce"] != "restricted" {
		t.Fatal("the bundle does not begin with a restricted namespace")
	}
	if diff := gocmp.Diff(render(t), have[1:]); diff != "" {
		t.Errorf("run: make chart\n%s", diff)
	}
}

// What would be lost with the release, and must not be.
func TestWhatHoldsDataIsKept(t *testing.T) {
	t.Parallel()
	kinds := map[string]int{}
	for _, o := range render(t) {
		if o.GetAnnotations()["helm.sh/resource-policy"] == "keep" {
			kinds[o.GetKind()]++
		} else if o.GetKind() == "CustomResourceDefinition" {
			t.Errorf("%s goes with the release", o.GetName())
		}
	}
	want := map[string]int{"CustomResourceDefinition": len(manifests(t, "../crds")), "ValidatingAdmissionPolicy": 2, "ValidatingAdmissionPolicyBinding": 2}
	if diff := gocmp.Diff(want, kinds); diff != "" {
		t.Error(diff)
	}
}

// A right that is a wildcard, or leads to all others, is nobody's.
func TestNoRuleIsAWildcard(t *testing.T) {
	t.Parallel()
	leading := []string{"*", "escalate", "bind", "impersonate", "pods/exec", "pods/attach", "pods/ephemeralcontainers", "nodes/proxy", "serviceaccounts/token", "certificatesigningrequests"}
	for name, values := range map[string][]string{"the defaults": nil, "everything": everything} {
		seen := 0
		for _, o := range render(t, values...) {
			if o.GetKind() != "Role" && o.GetKind() != "ClusterRole" {
				continue
			}
			role := &rbacv1.ClusterRole{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, role); err != nil {
				t.Fatal(err)
			}
			for _, rule := range role.Rules {
				seen++
				for _, word := range slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs, rule.NonResourceURLs) {
					if slices.Contains(leading, word) {
						t.Errorf("%s: %s grants %q", name, role.Name, word)
					}
				}
			}
		}
		if seen < 10 {
			t.Errorf("%s: only %d rules were found", name, seen)
		}
	}
}

// Nothing that a program is told is a secret.
func TestNoArgumentOrVariableIsASecret(t *testing.T) {
	t.Parallel()
	for _, o := range render(t, everything...) {
		if o.GetKind() == "Secret" && (o.Object["data"] != nil || o.Object["stringData"] != nil) {
			t.Errorf("Secret %s has content", o.GetName())
		}
		text, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if o.GetKind() == "Deployment" && bytes.Contains(text, []byte("secretKeyRef")) {
			t.Errorf("Deployment %s puts a secret into its environment", o.GetName())
		}
	}
}
