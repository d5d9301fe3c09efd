package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/step"
)

func secretOfClaim(c *v1alpha1.DatabaseClaim) client.ObjectKey {
	return client.ObjectKey{Namespace: c.Namespace, Name: cmp.Or(c.Spec.SecretName, c.Name)}
}

// describer turns what was read into trees, as of now.
type describer struct {
	*view
	*terminal
	now time.Time
}

// trees are the classes, the claims with all that belongs to them, and the
// role claims whose claim is not shown.
func (d describer) trees() []node {
	var all []node
	for i := range d.classes {
		all = append(all, d.class(&d.classes[i]))
	}
	shown := map[client.ObjectKey]bool{}
	for i := range d.claims {
		shown[client.ObjectKeyFromObject(&d.claims[i])] = true
		all = append(all, d.claim(&d.claims[i]))
	}
	for i := range d.roles {
		if r := &d.roles[i]; !shown[claimOf(r)] {
			n := d.role(r)
			n.children = append([]node{{kind: "claim", text: printable(claimOf(r).String())}}, n.children...)
			all = append(all, node{text: n.kind + " " + n.text, children: n.children})
		}
	}
	return all
}

func (d describer) class(c *v1alpha1.DatabaseClass) node {
	servers := "one shared server"
	if c.Spec.Dedicated {
		servers = "a server per claim"
	}
	text := fmt.Sprintf("%s  %s  %s, %s, %s", title("DatabaseClass", c), d.verdict(c), c.Spec.Backend, servers, ago(c.CreationTimestamp.Time, d.now))
	return node{text: text, children: d.untrue(c)}
}

func (d describer) claim(c *v1alpha1.DatabaseClaim) node {
	n := node{text: d.headline("DatabaseClaim", c), children: d.untrue(c)}
	n.children = append(n.children, node{kind: "class", text: c.Spec.Class})
	if s := c.Status.Server; s != nil {
		n.children = append(n.children, node{kind: "server", text: serverText(s)})
	}
	if c.Status.Database != "" {
		n.children = append(n.children, node{kind: "database", text: printable(c.Status.Database)})
	}
	n.children = append(n.children, d.owner(c.Status.Owner, c.Status.Credential)...)
	n.children = append(n.children, d.secret(secretOfClaim(c)))
	for i := range d.roles {
		if r := &d.roles[i]; claimOf(r) == client.ObjectKeyFromObject(c) {
			n.children = append(n.children, d.role(r))
		}
	}
	for i := range d.moves {
		if m := &d.moves[i]; m.Namespace == c.Namespace && m.Spec.Claim == c.Name {
			text := fmt.Sprintf("%s  to PostgreSQL %s, %s has the clients", m.Name, m.Spec.To.Version, cmp.Or(strings.ToLower(m.Status.Serving), "source"))
			n.children = append(n.children, node{kind: "Migration", text: text, detail: standing(m)})
		}
	}
	return n
}

func (d describer) role(r *v1alpha1.RoleClaim) node {
	n := node{kind: "RoleClaim", text: strings.TrimPrefix(d.headline("", r), " "), children: d.untrue(r)}
	t := tenantOfRole(r)
	if t.copies {
		n.children = append(n.children, node{kind: "rights", text: "the claim's own: its Secret is copied"})
	} else {
		n.children = append(n.children, node{kind: "rights", text: rights(r.Spec.SchemaRoleMap)})
	}
	n.children = append(n.children, d.owner(r.Status.Owner, r.Status.Credential)...)
	n.children = append(n.children, d.secret(client.ObjectKey{Namespace: r.Namespace, Name: t.secret}))
	return n
}

func rights(schemas map[string]v1alpha1.SchemaRole) string {
	var list []string
	for schema, right := range schemas {
		list = append(list, fmt.Sprintf("%s on schema %s", right, printable(schema)))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func serverText(s *v1alpha1.ServerStatus) string {
	text := s.Backend + " " + s.ID
	if s.Host != "" {
		text += fmt.Sprintf(" at %s:%d", s.Host, s.Port)
	}
	if s.Version != "" {
		text += ", PostgreSQL " + s.Version
	}
	return printable(text)
}

// owner is the role that owns what its logins make, with the logins that are open.
func (d describer) owner(role string, c *v1alpha1.CredentialStatus) []node {
	if role == "" {
		return nil
	}
	n := node{kind: "owner", text: printable(role)}
	if c != nil {
		current := fmt.Sprintf("%s  current, version %d, %s; %s", printable(c.Login), c.Version, ago(c.PublishedAt.Time, d.now), due(c.RotatesAt.Time, d.now))
		n.children = append(n.children, node{kind: "login", text: current})
		if c.Previous != "" {
			n.children = append(n.children, node{kind: "login", text: printable(c.Previous) + "  previous, still open"})
		}
	}
	return []node{n}
}

func due(at, now time.Time) string {
	if left := at.Sub(now); left > 0 {
		return "rotates in " + ago(now, at)
	}
	return "rotation is due"
}

func (d describer) secret(key client.ObjectKey) node {
	s, found := d.secrets[key]
	text := fmt.Sprintf("%s  %d keys, %s", key.Name, s.keys, ago(s.made.Time, d.now))
	switch {
	case !found:
		text = key.Name + "  " + d.paint(notice, "not published yet")
	case s.hidden:
		text = key.Name + "  (you may not read it)"
	}
	return node{kind: "Secret", text: text}
}

func (d describer) headline(kind string, o step.Object) string {
	return fmt.Sprintf("%s  %s  %s", title(kind, o), d.verdict(o), ago(o.GetCreationTimestamp().Time, d.now))
}

func (d describer) verdict(o step.Object) string {
	ready := meta.FindStatusCondition(*o.Conditions(), v1alpha1.Ready)
	switch {
	case !o.GetDeletionTimestamp().IsZero():
		return d.paint(notice, "Deleting")
	case ready == nil:
		return d.paint(notice, "not looked at yet; is a controller running?")
	case *o.ObservedGeneration() < o.GetGeneration():
		return d.paint(notice, "changed, and not looked at since")
	case ready.Status == metav1.ConditionTrue:
		return d.paint(good, "Ready")
	}
	return d.paint(bad, "not Ready: "+ready.Reason)
}

// untrue are the conditions that do not hold: first the causes, then, in one
// line, the steps that wait behind them.
func (d describer) untrue(o step.Object) []node {
	var nodes []node
	var behind []string
	for _, c := range *o.Conditions() {
		switch {
		case c.Type == v1alpha1.Ready || c.Type == step.Stalled || c.Status == metav1.ConditionTrue:
		case c.Reason == step.NotReached:
			behind = append(behind, c.Type)
		default:
			nodes = append(nodes, d.cause(o, c))
		}
	}
	if len(behind) > 0 {
		nodes = append(nodes, node{text: d.paint(faint, "not reached yet: "+strings.Join(behind, ", "))})
	}
	return nodes
}

func (d describer) cause(o step.Object, c metav1.Condition) node {
	hope := "waiting helps"
	if s := meta.FindStatusCondition(*o.Conditions(), step.Stalled); s != nil && s.Status == metav1.ConditionTrue && s.Reason == c.Reason {
		hope = "waiting does not help"
	}
	mark := d.paint(bad, "✗ "+c.Type)
	if meta.IsStatusConditionTrue(*o.Conditions(), v1alpha1.Ready) {
		mark = d.paint(notice, "… "+c.Type) // work that goes on beside
	}
	text := fmt.Sprintf("%s  %s for %s; %s", mark, c.Reason, ago(c.LastTransitionTime.Time, d.now), hope)
	return node{text: text, detail: printable(c.Message)}
}

// summary is why o is not Ready, in one line; empty when it is.
func summary(o step.Object) string {
	if meta.IsStatusConditionTrue(*o.Conditions(), v1alpha1.Ready) && *o.ObservedGeneration() >= o.GetGeneration() {
		return ""
	}
	for _, c := range *o.Conditions() {
		if c.Status == metav1.ConditionFalse && c.Type != v1alpha1.Ready && c.Type != v1alpha1.NoStaleLogin {
			return strings.TrimRight(printable(fmt.Sprintf("%s %s: %s", c.Type, c.Reason, c.Message)), " .:")
		}
	}
	return "waiting for the controller"
}

// stalled reports that the newest spec was looked at, and that waiting will not help.
func stalled(o step.Object) bool {
	return meta.IsStatusConditionTrue(*o.Conditions(), step.Stalled) && *o.ObservedGeneration() >= o.GetGeneration()
}

// advice is what to do about an object that is not Ready.
func advice(o step.Object) string {
	if stalled(o) {
		return "waiting does not help; berth get " + o.GetName() + " shows what to change"
	}
	return "berth get -w " + o.GetName() + " waits for it"
}
