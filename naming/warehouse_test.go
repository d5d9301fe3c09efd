package naming_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/naming"
)

var orgID = rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,33}[a-z0-9])?|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

func TestBucketsFitAndDiffer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := orgID.Draw(t, "a"), orgID.Draw(t, "b")
		suffix := rapid.SampledFrom([]string{"", "mw-prod-us", strings.Repeat("x", 40)}).Draw(t, "suffix")
		one, other := naming.Bucket("posthog-duckling", a, suffix), naming.Bucket("posthog-duckling", b, suffix)
		if len(one) > 63 || strings.HasSuffix(one, "-") {
			t.Fatalf("%q is no bucket name", one)
		}
		if a != b && one == other {
			t.Fatalf("%s and %s share bucket %s", a, b, one)
		}
	})
}

func TestOwnedBy(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		org, secret string
		owned       bool
	}{
		"its own name":               {"acme", "acme", true},
		"a name that begins with it": {"acme", "acme-metadata", true},
		"a duckling's":               {"acme", "duckling-acme-db", true},
		"its users":                  {"acme", "org-acme-users", true},
		"another org's":              {"acme", "umbrella-metadata", false},
		"one that only begins alike": {"acme", "acmes-metadata", false},
		"one that holds it":          {"acme", "not-acme-metadata", false},
		"no name":                    {"acme", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := naming.OwnedBy(tc.org, tc.secret); got != tc.owned {
				t.Errorf("OwnedBy(%q, %q) = %t", tc.org, tc.secret, got)
			}
		})
	}
}
