package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func before(d time.Duration) metav1.Time { return metav1.NewTime(noon.Add(-d)) }

func condition(kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: before(3 * time.Minute)}
}

func madeClaim(conditions ...metav1.Condition) v1alpha1.DatabaseClaim {
	c := v1alpha1.DatabaseClaim{}
	c.Namespace, c.Name, c.CreationTimestamp = "apps", "orders", before(2*time.Hour)
	c.Spec.Class, c.Status.Conditions = "gold", conditions
	return c
}

func servedClaim() v1alpha1.DatabaseClaim {
	c := madeClaim(condition(v1alpha1.Ready, "True", "Ready", ""))
	c.Status.Server = &v1alpha1.ServerStatus{Backend: "local", ID: "class-gold", Host: "db.test", Port: 5432, Version: "17.4"}
	c.Status.Database, c.Status.Owner = "orders", "apps_orders"
	c.Status.Credential = &v1alpha1.CredentialStatus{
		Login: "apps_orders_b", Version: 2, PublishedAt: before(time.Minute), RotatesAt: before(-50 * time.Minute), Previous: "apps_orders_a",
	}
	return c
}

func madeRole() v1alpha1.RoleClaim {
	r := v1alpha1.RoleClaim{}
	r.Namespace, r.Name, r.CreationTimestamp = "reports", "reader", before(time.Hour)
	r.Spec.SourceDatabaseClaim = v1alpha1.ClaimReference{Name: "orders", Namespace: "apps"}
	r.Spec.SchemaRoleMap = map[string]v1alpha1.SchemaRole{"sales": v1alpha1.ReadOnly, "audit": v1alpha1.Regular}
	r.Status.Conditions = []metav1.Condition{condition(v1alpha1.Ready, "True", "Ready", "")}
	return r
}

func TestTree(t *testing.T) {
	t.Parallel()
	secrets := map[client.ObjectKey]sealed{
		{Namespace: "apps", Name: "orders"}:    {keys: 8, made: before(2 * time.Hour)},
		{Namespace: "reports", Name: "reader"}: {hidden: true},
	}
	deleted := madeClaim(condition(v1alpha1.Ready, "False", "Deleting", "x"), condition(v1alpha1.Released, "False", "Unreachable", "The server is away."))
	now := before(0)
	deleted.DeletionTimestamp = &now
	held := servedClaim()
	held.Status.Conditions = append(held.Status.Conditions, condition(v1alpha1.NoStaleLogin, "False", "Propagating", "Login apps_orders_a stays open."))
	changed := servedClaim()
	changed.Generation = 2
	moving := v1alpha1.Migration{Spec: v1alpha1.MigrationSpec{Claim: "orders", To: v1alpha1.MigrationTarget{Version: "18"}}}
	moving.Namespace, moving.Name = "apps", "orders-18-x"
	moving.Status.Progress = &v1alpha1.MigrationProgress{Text: "40% of 120 MB"}
	moving.Status.Conditions = []metav1.Condition{
		condition(v1alpha1.Succeeded, "False", "Copying", "x"), condition(v1alpha1.SchemaCopied, "True", "", ""),
		condition(v1alpha1.RowsCopied, "False", "Copying", "2 of 5 tables are copied."), condition(v1alpha1.Switched, "Unknown", "NotReached", ""),
	}
	elsewhere := moving
	elsewhere.Namespace = "reports"
	for name, tc := range map[string]struct {
		view view
		want string
	}{
		"shows all that belongs to a claim": {view{claims: []v1alpha1.DatabaseClaim{servedClaim()}, roles: []v1alpha1.RoleClaim{madeRole()}, secrets: secrets}, `
DatabaseClaim apps/orders  Ready  120m
├─ class     gold
├─ server    local class-gold at db.test:5432, PostgreSQL 17.4
├─ database  orders
├─ owner     apps_orders
│  ├─ login apps_orders_b  current, version 2, 60s; rotates in 50m
│  └─ login apps_orders_a  previous, still open
├─ Secret    orders  8 keys, 120m
└─ RoleClaim reports/reader  Ready  60m
   ├─ rights readonly on schema sales, regular on schema audit
   └─ Secret reader  (you may not read it)
`},
		"says why, since when, and that waiting helps": {view{claims: []v1alpha1.DatabaseClaim{madeClaim(
			condition(v1alpha1.Ready, "False", "Unreachable", "x"),
			condition(v1alpha1.Admitted, "True", "Admitted", ""),
			condition(v1alpha1.ServerReady, "False", "Unreachable", "The server at db.test:5432 refuses connections; berth tries again by itself."),
			condition(v1alpha1.DatabaseReady, "Unknown", "NotReached", ""),
			condition(v1alpha1.CredentialReady, "Unknown", "NotReached", ""),
		)}}, `
DatabaseClaim apps/orders  not Ready: Unreachable  120m
├─ ✗ ServerReady  Unreachable for 3m; waiting helps
│    The server at db.test:5432 refuses connections; berth
│    tries again by itself.
├─ not reached yet: DatabaseReady, CredentialReady
├─ class  gold
└─ Secret orders  not published yet
`},
		"says when waiting does not help": {view{claims: []v1alpha1.DatabaseClaim{madeClaim(
			condition(v1alpha1.Ready, "False", "NotAllowed", "x"),
			condition("Stalled", "True", "NotAllowed", "x"),
			condition(v1alpha1.Admitted, "False", "NotAllowed", "Choose another class."),
		)}}, `
DatabaseClaim apps/orders  not Ready: NotAllowed  120m
├─ ✗ Admitted  NotAllowed for 3m; waiting does not help
│    Choose another class.
├─ class  gold
└─ Secret orders  not published yet
`},
		"sets work beside a Ready claim apart from what is wrong": {view{claims: []v1alpha1.DatabaseClaim{held}, secrets: secrets}, `
DatabaseClaim apps/orders  Ready  120m
├─ … NoStaleLogin  Propagating for 3m; waiting helps
│    Login apps_orders_a stays open.
├─ class    gold
├─ server   local class-gold at db.test:5432, PostgreSQL 17.4
├─ database orders
├─ owner    apps_orders
│  ├─ login apps_orders_b  current, version 2, 60s; rotates in 50m
│  └─ login apps_orders_a  previous, still open
└─ Secret   orders  8 keys, 120m
`},
		"shows where the claim's own migration is": {view{claims: []v1alpha1.DatabaseClaim{madeClaim()}, secrets: secrets, moves: []v1alpha1.Migration{moving, elsewhere}}, `
DatabaseClaim apps/orders  not looked at yet; is a controller running?  120m
├─ class     gold
├─ Secret    orders  8 keys, 120m
└─ Migration orders-18-x  to PostgreSQL 18, source has the clients
     RowsCopied Copying: 2 of 5 tables are copied. 40% of
     120 MB.
`},
		"tells a claim that no controller saw": {view{claims: []v1alpha1.DatabaseClaim{madeClaim()}, secrets: secrets}, `
DatabaseClaim apps/orders  not looked at yet; is a controller running?  120m
├─ class  gold
└─ Secret orders  8 keys, 120m
`},
		"tells a change that no controller saw": {view{claims: []v1alpha1.DatabaseClaim{changed}, secrets: secrets}, `
DatabaseClaim apps/orders  changed, and not looked at since  120m
├─ class    gold
├─ server   local class-gold at db.test:5432, PostgreSQL 17.4
├─ database orders
├─ owner    apps_orders
│  ├─ login apps_orders_b  current, version 2, 60s; rotates in 50m
│  └─ login apps_orders_a  previous, still open
└─ Secret   orders  8 keys, 120m
`},
		"tells what a deletion waits for": {view{claims: []v1alpha1.DatabaseClaim{deleted}}, `
DatabaseClaim apps/orders  Deleting  120m
├─ ✗ Released  Unreachable for 3m; waiting helps
│    The server is away.
├─ class  gold
└─ Secret orders  not published yet
`},
		"shows a role claim whose claim is elsewhere by itself": {view{roles: []v1alpha1.RoleClaim{madeRole()}, secrets: secrets}, `
RoleClaim reports/reader  Ready  60m
├─ claim  apps/orders
├─ rights readonly on schema sales, regular on schema audit
└─ Secret reader  (you may not read it)
`},
		"does not let a message move the cursor": {view{claims: []v1alpha1.DatabaseClaim{madeClaim(
			condition(v1alpha1.ServerReady, "False", "Unreachable", "a\x1b[2Jb\rc"),
		)}}, `
DatabaseClaim apps/orders  not looked at yet; is a controller running?  120m
├─ ✗ ServerReady  Unreachable for 3m; waiting helps
│    a [2Jb c
├─ class  gold
└─ Secret orders  not published yet
`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			plainly := &terminal{out: &out, width: 60}
			for _, tree := range (describer{&tc.view, plainly, noon}).trees() {
				if err := plainly.printTree(tree); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(strings.TrimPrefix(tc.want, "\n"), out.String()); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestColoursAreOnlyForTerminals(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		color bool
		want  string
	}{
		"a terminal gets them": {true, "\x1b[32mReady\x1b[0m"},
		"a file does not":      {false, "Ready"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := (&terminal{color: tc.color}).paint(good, "Ready"); got != tc.want {
				t.Fatalf("%q, want %q", got, tc.want)
			}
		})
	}
}
