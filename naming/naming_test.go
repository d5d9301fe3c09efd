package naming_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/naming"
)

// label draws a name that Kubernetes accepts for a namespace or a claim.
func label(t *rapid.T, what string) string {
	return rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`).Draw(t, what)
}

func TestDerivedNamesFitAndDiffer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ns1, n1, ns2, n2 := label(t, "ns1"), label(t, "n1"), label(t, "ns2"), label(t, "n2")
		for what, derive := range map[string]func(ns, n string) string{
			"owner": naming.Owner, "role": naming.RoleOwner, "server": naming.DedicatedServer,
		} {
			a, b := derive(ns1, n1), derive(ns2, n2)
			if (ns1 == ns2 && n1 == n2) != (a == b) {
				t.Fatalf("%s of %s/%s and %s/%s: %q and %q", what, ns1, n1, ns2, n2, a, b)
			}
		}
		if o := naming.Owner(ns1, n1); len(o) > naming.OwnerLimit || len(naming.Login(o, 2)) > naming.IdentifierLimit {
			t.Fatalf("owner %q is too long", o)
		}
		if s := naming.DedicatedServer(ns1, n1); len(s) > naming.ServerLimit {
			t.Fatalf("server %q is too long", s)
		}
		if j := naming.Journal("databaseclaim", n1); len(j) > 253 || strings.ContainsAny(j, "_") {
			t.Fatalf("journal %q is no object name", j)
		}
	})
}

// Two names that share their first 61 bytes, and differ after, must differ.
func TestLongNamesStayApart(t *testing.T) {
	t.Parallel()
	ns := strings.Repeat("n", 63)
	if a, b := naming.Owner(ns, "orders-1"), naming.Owner(ns, "orders-2"); a == b {
		t.Fatalf("both became %q", a)
	}
}

func TestLoginsAlternate(t *testing.T) {
	t.Parallel()
	for version := int64(1); version < 10; version++ {
		if naming.Login("o", version) == naming.Login("o", version+1) {
			t.Fatalf("versions %d and %d share a login", version, version+1)
		}
	}
	if naming.Login("o", 1) != "o_a" {
		t.Fatalf("the first login is %q", naming.Login("o", 1))
	}
}
