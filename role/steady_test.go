package role_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
)

func TestRoleRestsAndIsRepaired(t *testing.T) {
	t.Parallel()
	var writes atomic.Int64
	server := testkit.Postgres(t, 15)
	proxy := testkit.NewFaultProxy(t, server.Target(), nil)
	clock := clocktesting.NewFakePassiveClock(time.Now())
	w := world.New(t, world.Options{
		Server: server, Admin: ptr.To(proxy.Target()), Clock: clock,
		Transport: func(next http.RoundTripper) http.RoundTripper {
			return transport(func(r *http.Request) (*http.Response, error) {
				if r.Method != http.MethodGet {
					writes.Add(1)
				}
				return next.RoundTrip(r)
			})
		},
	})
	claim := w.Claim("orders", func(s *v1alpha1.DatabaseClaimSpec) { s.Schemas = []string{"app"} })
	w.Make(claim)
	r := roleClaim(w, "reader", map[string]v1alpha1.SchemaRole{"app": v1alpha1.ReadOnly})
	w.Make(r)
	w.Ready(r)
	w.Ready(claim)
	seen := func() string { return fmt.Sprint(writes.Load(), " writes, ", proxy.RoundTrips(), " round trips") }
	rest := func() string {
		last, since := seen(), time.Now()
		w.Until("the controllers to rest", func() (bool, string) {
			if now := seen(); now != last {
				last, since = now, time.Now()
			}
			return time.Since(since) > 500*time.Millisecond, last
		})
		return last
	}
	pokes := 0
	poke := func() {
		secret := &corev1.Secret{}
		if err := w.Get(t.Context(), client.ObjectKey{Namespace: w.Namespace, Name: "reader"}, secret); err != nil {
			t.Fatal(err)
		}
		pokes++
		w.Change(secret, func() { secret.Labels["poked"] = fmt.Sprint(pokes) })
	}
	before := rest()
	server.Exec(t, claim.Status.Database, `GRANT INSERT ON ALL TABLES IN SCHEMA app TO "`+r.Status.Owner+`"; GRANT CREATE ON SCHEMA app TO "`+r.Status.Owner+`"`)
	may := func() string {
		return server.Query(t, claim.Status.Database, "SELECT has_schema_privilege('"+r.Status.Owner+"', 'app', 'CREATE')")[0]
	}
	if may() != "t" {
		t.Fatal("nothing was harmed")
	}
	clock.SetTime(clock.Now().Add(time.Minute))
	poke()
	if after := rest(); after != before {
		t.Errorf("an idle minute took %s to %s", before, after)
	}
	clock.SetTime(clock.Now().Add(40 * time.Minute))
	poke()
	w.Until("the right to be taken back", func() (bool, string) { return may() == "f", may() })
	w.Ready(r)
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
