package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Pod is what policies see of one.
type Pod struct {
	Namespace string
	Labels    map[string]string
	Address   string
	Ports     []corev1.ContainerPort
}

type world struct {
	pods       []Pod
	namespaces map[string]labels.Set
	policies   []networking.NetworkPolicy
}

// table is the whole of what nft has to do. Its chains come before kube-proxy's
// filters and after the translation of Service addresses. The node itself
// reaches every pod: its traffic is not forwarded.
func (w world) table() (string, error) {
	pods := slices.SortedFunc(slices.Values(w.pods), func(a, b Pod) int { return cmp.Compare(a.Address, b.Address) })
	var leaving, entering, chains strings.Builder
	for _, pod := range pods {
		for _, way := range []direction{egress, ingress} {
			rules, isolated, err := w.rules(pod, way)
			if err != nil {
				return "", err
			}
			if !isolated {
				continue
			}
			chain := way.prefix + pod.Address
			jumps := &entering
			if way == egress {
				jumps = &leaving
			}
			fmt.Fprintf(jumps, "\t\tip %s %s jump %s\n", way.self, pod.Address, chain)
			fmt.Fprintf(&chains, "\tchain %s {\n", chain)
			for _, rule := range rules {
				fmt.Fprintf(&chains, "\t\t%s\n", strings.Join(strings.Fields(rule+" return"), " "))
			}
			chains.WriteString("\t\treject with icmp type admin-prohibited\n\t}\n")
		}
	}
	const begin = "\t\tct state established,related accept\n"
	return "table ip berth\ndelete table ip berth\ntable ip berth {\n" + chains.String() +
		"\tchain forward {\n\t\ttype filter hook forward priority -10\n" + begin + leaving.String() + entering.String() + "\t}\n" +
		"\tchain input {\n\t\ttype filter hook input priority -10\n" + begin + leaving.String() + "\t}\n}\n", nil
}

// direction is one side of a policy, seen from the isolated pod.
type direction struct {
	kind              networking.PolicyType
	prefix, self, far string
}

var (
	ingress = direction{networking.PolicyTypeIngress, "in-", "daddr", "saddr"}
	egress  = direction{networking.PolicyTypeEgress, "out-", "saddr", "daddr"}
)

// permission is a rule of either direction.
type permission struct {
	peers []networking.NetworkPolicyPeer
	ports []networking.NetworkPolicyPort
}

func (d direction) permissions(policy networking.NetworkPolicy) (all []permission) {
	if d == ingress {
		for _, rule := range policy.Spec.Ingress {
			all = append(all, permission{rule.From, rule.Ports})
		}
		return all
	}
	for _, rule := range policy.Spec.Egress {
		all = append(all, permission{rule.To, rule.Ports})
	}
	return all
}

// rules are the conditions, in nft's words, under which traffic may pass.
func (w world) rules(pod Pod, way direction) (rules []string, isolated bool, err error) {
	for _, policy := range w.policies {
		selected, err := selects(&policy.Spec.PodSelector, pod.Labels)
		if err != nil {
			return nil, false, fmt.Errorf("reading policy %s/%s: %w", policy.Namespace, policy.Name, err)
		}
		if policy.Namespace != pod.Namespace || !selected || !slices.Contains(policy.Spec.PolicyTypes, way.kind) {
			continue
		}
		isolated = true
		for _, permission := range way.permissions(policy) {
			peers, err := w.peers(permission, policy.Namespace, way)
			if err != nil {
				return nil, false, fmt.Errorf("reading policy %s/%s: %w", policy.Namespace, policy.Name, err)
			}
			for _, peer := range peers {
				owner := &pod
				if way == egress {
					owner = peer.pod
				}
				for _, port := range ports(permission.ports, owner) {
					rules = append(rules, peer.match+" "+port)
				}
			}
		}
	}
	slices.Sort(rules)
	return slices.Compact(rules), isolated, nil
}

// peer is a far end: a pod, a block of addresses, or anything.
type peer struct {
	match string
	pod   *Pod
}

func (w world) peers(of permission, namespace string, way direction) ([]peer, error) {
	wanted := of.peers
	var found []peer
	if len(wanted) == 0 {
		found = []peer{{}}
		// A name has no number until there is a pod to ask.
		if way == egress && slices.ContainsFunc(of.ports, named) {
			wanted = []networking.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}}}
		}
	}
	for _, p := range wanted {
		if p.IPBlock != nil {
			if match := block(p.IPBlock, way.far); match != "" {
				found = append(found, peer{match: match})
			}
			continue
		}
		for _, pod := range w.pods {
			meant, err := w.names(p, namespace, pod)
			if err != nil {
				return nil, err
			}
			if meant {
				found = append(found, peer{match: "ip " + way.far + " " + pod.Address, pod: &pod})
			}
		}
	}
	return found, nil
}

func (w world) names(p networking.NetworkPolicyPeer, namespace string, pod Pod) (bool, error) {
	if p.NamespaceSelector == nil {
		if pod.Namespace != namespace {
			return false, nil
		}
	} else if in, err := selects(p.NamespaceSelector, w.namespaces[pod.Namespace]); err != nil || !in {
		return false, err
	}
	if p.PodSelector == nil {
		return true, nil
	}
	return selects(p.PodSelector, pod.Labels)
}

func selects(selector *metav1.LabelSelector, on map[string]string) (bool, error) {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return false, err
	}
	return s.Matches(labels.Set(on)), nil
}

func block(b *networking.IPBlock, far string) string {
	prefix, err := netip.ParsePrefix(b.CIDR)
	if err != nil || !prefix.Addr().Is4() {
		return ""
	}
	match := "ip " + far + " " + prefix.Masked().String()
	for _, except := range b.Except {
		match += " ip " + far + " != " + except
	}
	return match
}

func named(p networking.NetworkPolicyPort) bool { return p.Port != nil && p.Port.Type == intstr.String }

// ports are the conditions on the port; a name is that of a port of owner.
func ports(wanted []networking.NetworkPolicyPort, owner *Pod) []string {
	if len(wanted) == 0 {
		return []string{""}
	}
	var found []string
	for _, p := range wanted {
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		transport := strings.ToLower(string(protocol))
		switch {
		case p.Port == nil:
			found = append(found, "meta l4proto "+transport)
		case p.Port.Type == intstr.Int && p.EndPort != nil:
			found = append(found, fmt.Sprintf("%s dport %d-%d", transport, p.Port.IntVal, *p.EndPort))
		case p.Port.Type == intstr.Int:
			found = append(found, fmt.Sprintf("%s dport %d", transport, p.Port.IntVal))
		case owner != nil:
			for _, port := range owner.Ports {
				if port.Name == p.Port.StrVal && cmp.Or(port.Protocol, corev1.ProtocolTCP) == protocol {
					found = append(found, fmt.Sprintf("%s dport %d", transport, port.ContainerPort))
				}
			}
		}
	}
	return found
}
