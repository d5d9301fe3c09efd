package policy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// Each policy is in namespace shop; the rules are those of pod web there.
func TestRules(t *testing.T) {
	t.Parallel()
	w := world{
		namespaces: map[string]labels.Set{"shop": {"team": "a"}, "bank": {"team": "b"}},
		pods: []Pod{
			{Namespace: "shop", Address: "10.1.0.1", Labels: labels.Set{"app": "web"}, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}},
			{Namespace: "shop", Address: "10.1.0.2", Labels: labels.Set{"app": "db"}, Ports: []corev1.ContainerPort{{Name: "sql", ContainerPort: 5432}}},
			{Namespace: "bank", Address: "10.1.0.3", Labels: labels.Set{"app": "db"}, Ports: []corev1.ContainerPort{{Name: "sql", ContainerPort: 6432}}},
		},
	}
	for name, tc := range map[string]struct {
		spec string
		way  direction
		want []string
		open bool
	}{
		"a policy for other pods isolates nobody":          {spec: `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}`, way: ingress, open: true},
		"a policy for the other direction isolates nobody": {spec: `{podSelector: {}, policyTypes: [Egress]}`, way: ingress, open: true},
		"without rules nothing may pass":                   {spec: `{podSelector: {}, policyTypes: [Ingress]}`, way: ingress},
		"an empty rule lets everything pass":               {spec: `{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}`, way: ingress, want: []string{" "}},
		"a pod selector means the policy's namespace": {
			spec: `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]}`, way: ingress,
			want: []string{"ip saddr 10.1.0.2 "},
		},
		"a namespace selector means all its pods": {
			spec: `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]}`, way: ingress,
			want: []string{"ip saddr 10.1.0.3 "},
		},
		"both selectors together have to hold": {
			spec: `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}]}]}`, way: ingress,
			want: []string{"ip saddr 10.1.0.1 "},
		},
		"peers that match nobody let nobody pass": {
			spec: `{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: none}}}]}]}`, way: ingress,
		},
		"a block of addresses has its exceptions": {
			spec: `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.9/8, except: [10.2.0.0/16]}}]}]}`, way: egress,
			want: []string{"ip daddr 10.0.0.0/8 ip daddr != 10.2.0.0/16 "},
		},
		"ports are a number, a range or a whole protocol": {
			spec: `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}, {port: 90, endPort: 99, protocol: UDP}, {protocol: SCTP}]}]}`, way: egress,
			want: []string{" meta l4proto sctp", " tcp dport 80", " udp dport 90-99"},
		},
		"coming in, a port's name is the pod's own": {
			spec: `{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: http}]}]}`, way: ingress,
			want: []string{" tcp dport 8080"},
		},
		"going out, a port's name is that of each peer": {
			spec: `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: sql}]}]}`, way: egress,
			want: []string{"ip daddr 10.1.0.2 tcp dport 5432", "ip daddr 10.1.0.3 tcp dport 6432"},
		},
		"going out to anywhere, a port's name is that of every pod": {
			spec: `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: sql}]}]}`, way: egress,
			want: []string{"ip daddr 10.1.0.2 tcp dport 5432", "ip daddr 10.1.0.3 tcp dport 6432"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			policy := networking.NetworkPolicy{}
			policy.Namespace = "shop"
			if err := yaml.UnmarshalStrict([]byte(tc.spec), &policy.Spec); err != nil {
				t.Fatal(err)
			}
			w := world{pods: w.pods, namespaces: w.namespaces, policies: []networking.NetworkPolicy{policy}}
			got, isolated, err := w.rules(w.pods[0], tc.way)
			if err != nil || isolated == tc.open {
				t.Errorf("isolated = %v, %v", isolated, err)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTableIsReplacedAsAWhole(t *testing.T) {
	t.Parallel()
	policy := networking.NetworkPolicy{}
	policy.Namespace = "shop"
	policy.Spec.PolicyTypes = []networking.PolicyType{networking.PolicyTypeIngress, networking.PolicyTypeEgress}
	w := world{pods: []Pod{{Namespace: "shop", Address: "10.1.0.1"}}, policies: []networking.NetworkPolicy{policy}}
	table, err := w.table()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(table, "table ip berth\ndelete table ip berth\ntable ip berth {\n") {
		t.Errorf("it begins with what is there:\n%s", table)
	}
	for chain, jumps := range map[string]int{"saddr 10.1.0.1 jump out-10.1.0.1": 2, "daddr 10.1.0.1 jump in-10.1.0.1": 1} {
		if n := strings.Count(table, chain); n != jumps {
			t.Errorf("%q is there %d times:\n%s", chain, n, table)
		}
	}
	if n := strings.Count(table, "reject"); n != 2 {
		t.Errorf("%d chains end with a refusal:\n%s", n, table)
	}
}
