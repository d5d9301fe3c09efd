package claim_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
)

// counted is a world that counts its controllers' writes, round trips of SQL,
// and passes: each pass asks the clock.
type counted struct {
	*world.World
	t      *testing.T
	proxy  *testkit.FaultProxy
	clock  *askedClock
	writes *atomic.Int64
	what   *page // a line for each write
	pokes  int
}

type askedClock struct {
	*clocktesting.FakePassiveClock
	asked atomic.Int64
}

func (c *askedClock) Now() time.Time {
	c.asked.Add(1)
	return c.FakePassiveClock.Now()
}

func newCounted(t *testing.T) *counted {
	t.Helper()
	server := testkit.Postgres(t, 15)
	c := &counted{t: t, clock: &askedClock{FakePassiveClock: clocktesting.NewFakePassiveClock(time.Now())}, writes: &atomic.Int64{}, what: &page{}}
	c.proxy = testkit.NewFaultProxy(t, server.Target(), nil)
	c.World = world.New(t, world.Options{
		Server: server, Admin: ptr.To(c.proxy.Target()), Clock: c.clock, Idle: true,
		Transport: func(next http.RoundTripper) http.RoundTripper {
			return transport(func(r *http.Request) (*http.Response, error) {
				answer, err := next.RoundTrip(r)
				if r.Method != http.MethodGet && err == nil {
					c.writes.Add(1)
					fmt.Fprintln(c.what, answer.StatusCode, r.Method, r.URL.Path)
				}
				return answer, err
			})
		},
	})
	return c
}

// rest waits until the controllers have done nothing for a while.
func (c *counted) rest() {
	c.t.Helper()
	last, since := "", time.Now()
	c.Until("the controllers to rest", func() (bool, string) {
		now := fmt.Sprint(c.writes.Load(), c.proxy.RoundTrips(), c.clock.asked.Load())
		if now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond, now
	})
}

// poke wakes a claim without a change that berth cares for, and waits for the
// end of what that causes.
func (c *counted) poke(name string) {
	c.t.Helper()
	before := c.clock.asked.Load()
	secret := &corev1.Secret{}
	if err := c.Get(c.t.Context(), client.ObjectKey{Namespace: c.Namespace, Name: name}, secret); err != nil {
		c.t.Fatal(err)
	}
	c.pokes++
	c.Change(secret, func() { secret.Labels["poked"] = fmt.Sprint(c.pokes) })
	c.Until("the claim to be looked at", func() (bool, string) { return c.clock.asked.Load() > before, "nobody asks for the time" })
	c.rest()
}

func TestNothingHappensInSteadyState(t *testing.T) {
	t.Parallel()
	w := newCounted(t)
	stop := w.Run(t.Context())
	w.Ready(w.Class)
	w.rest()
	w.writes.Store(0)
	c := w.Claim("steady")
	w.Make(c)
	w.Ready(c)
	w.rest()
	writes, trips := w.writes.Load(), w.proxy.RoundTrips()
	t.Logf("from creation to Ready: %d writes", writes)
	if writes > 5 {
		t.Errorf("a claim took %d writes until it was Ready, want at most 5; all so far:\n%s", writes, w.what)
	}
	for range 10 {
		w.clock.SetTime(w.clock.Now().Add(time.Minute))
		w.poke("steady")
	}
	if got := w.writes.Load(); got != writes {
		t.Errorf("10 idle minutes took %d writes", got-writes)
	}
	if got := w.proxy.RoundTrips(); got != trips {
		t.Errorf("10 idle minutes took %d round trips of SQL", got-trips)
	}
	w.clock.SetTime(w.clock.Now().Add(20 * time.Minute))
	w.poke("steady")
	if w.proxy.RoundTrips() == trips {
		t.Error("nobody looked at the database at the drift interval")
	}
	stop()
	w.Run(t.Context())
	w.Until("the new controllers to look at the claim", func() (bool, string) { return w.proxy.RoundTrips() > trips, "no SQL yet" })
	w.rest()
	if got := w.writes.Load(); got != writes {
		t.Errorf("a restart of the controllers took %d writes", got-writes)
	}
}

func TestDriftIsRepairedAtItsInterval(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ harm, look, want string }{
		"a changed owner":                   {`ALTER DATABASE "NAME" OWNER TO postgres`, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'NAME'", "NAME"},
		"rights of everybody":               {`GRANT CONNECT, CREATE ON DATABASE "NAME" TO PUBLIC`, "SELECT count(*) FROM pg_database, aclexplode(datacl) a WHERE datname = 'NAME' AND a.grantee = 0", "0"},
		"a session role that was reset":     {`ALTER ROLE "NAME_a" RESET role`, "SELECT s.setconfig[1] FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE r.rolname = 'NAME_a'", "role=NAME"},
		"a login that was closed":           {`ALTER ROLE "NAME_a" NOLOGIN`, "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'NAME_a'", "t"},
		"a login that left its owner":       {`REVOKE "NAME" FROM "NAME_a"`, "SELECT pg_has_role('NAME_a', 'NAME', 'MEMBER')", "t"},
		"a login that was made a superuser": {`ALTER ROLE "NAME_a" SUPERUSER`, "SELECT rolsuper FROM pg_roles WHERE rolname = 'NAME_a'", "f"},
		"a marker that was removed":         {`COMMENT ON DATABASE "NAME" IS NULL`, "SELECT shobj_description(oid, 'pg_database') LIKE 'berth: %' FROM pg_database WHERE datname = 'NAME'", "t"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newCounted(t)
			w.Run(t.Context())
			c := w.Claim("drift")
			w.Make(c)
			w.Ready(c)
			w.rest()
			name := c.Status.Database
			say := func(text string) string { return strings.NewReplacer("NAME", name).Replace(text) }
			w.Server.Exec(t, "", say(tc.harm))
			w.poke("drift")
			look, want := say(tc.look), say(tc.want)
			if got := w.Server.Query(t, "", look); len(got) == 1 && got[0] == want {
				t.Fatalf("%s: nothing was harmed", name)
			}
			w.clock.SetTime(w.clock.Now().Add(31 * time.Minute))
			w.poke("drift")
			w.Until("repair", func() (bool, string) { // a busy machine may need a second pass
				got := w.Server.Query(t, "", look)
				return len(got) == 1 && got[0] == want, fmt.Sprintf("after the drift interval it is %v, want %s", got, want)
			})
			if _, err := w.As(w.Secret("drift"), "SELECT 1"); err != nil {
				t.Error(err)
			}
		})
	}
}
