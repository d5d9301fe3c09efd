package role_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
)

// fixture is a Ready claim with a role claim, whose controllers can be cut off.
type fixture struct {
	*world.World
	fuse *testkit.Fuse
	role *v1alpha1.RoleClaim
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{fuse: &testkit.Fuse{}}
	server := testkit.Postgres(t, 15)
	proxy := testkit.NewFaultProxy(t, server.Target(), f.fuse)
	f.World = world.New(t, world.Options{
		Server: server, Admin: ptr.To(proxy.Target()), Transport: f.fuse.Transport, Idle: true,
		Class: func(s *v1alpha1.DatabaseClassSpec) {
			s.Rotation.Propagation = &metav1.Duration{Duration: 100 * time.Millisecond}
		},
	})
	f.role = roleClaim(f.World, "worker", map[string]v1alpha1.SchemaRole{"app": v1alpha1.Regular})
	return f
}

func (f *fixture) settled(t *testing.T) func() (bool, string) {
	return func() (bool, string) {
		err := f.Get(t.Context(), client.ObjectKeyFromObject(f.role), f.role)
		for _, condition := range []string{v1alpha1.Ready, v1alpha1.NoStaleLogin} {
			if err != nil || !meta.IsStatusConditionTrue(f.role.Status.Conditions, condition) || f.role.Status.ObservedGeneration != f.role.Generation {
				return false, fmt.Sprint(err, f.role.Status.Conditions)
			}
		}
		return f.role.Status.Credential.Version >= f.role.Spec.Rotation.MinVersion, fmt.Sprint(f.role.Status.Credential)
	}
}

// act does what a story asks for and waits for its end, with the controllers
// cut off at one effect and started again.
func (f *fixture) act(t *testing.T, stop func(), at int, applied bool, do func(), ended func() (bool, string)) (effects int) {
	t.Helper()
	cut, blown := f.fuse.Arm(at, applied), false
	do()
	f.Until("the end, or the cut", func() (bool, string) {
		select {
		case <-cut:
			blown = true
			return true, ""
		default:
			return ended()
		}
	})
	effects = f.fuse.Count()
	if blown {
		stop()
	}
	f.fuse.Mend() // the checks go through it too
	if blown {
		f.Run(t.Context())
		f.Until("the end after a new start", ended)
	}
	return effects
}

func TestRoleKilledAtAnyEffect(t *testing.T) {
	t.Parallel()
	stories := map[string]func(t *testing.T, at int, applied bool) int{
		"making": func(t *testing.T, at int, applied bool) int {
			f := newFixture(t)
			stop := f.start(t)
			n := f.act(t, stop, at, applied, func() { f.Make(f.role) }, f.settled(t))
			f.check(t, 1)
			return n
		},
		"rotating": func(t *testing.T, at int, applied bool) int {
			f := newFixture(t)
			stop := f.start(t)
			f.Make(f.role)
			f.Until("the role to settle", f.settled(t))
			n := f.act(t, stop, at, applied, func() { f.Change(f.role, func() { f.role.Spec.Rotation.MinVersion = 2 }) }, f.settled(t))
			f.check(t, 2)
			return n
		},
		"dropping": func(t *testing.T, at int, applied bool) int {
			f := newFixture(t)
			stop := f.start(t)
			f.Make(f.role)
			f.Until("the role to settle", f.settled(t))
			if _, err := f.As(f.Secret("worker"), "CREATE TABLE app.kept (x int); INSERT INTO app.kept VALUES (3)"); err != nil {
				t.Fatal(err)
			}
			owner := f.role.Status.Owner
			n := f.act(t, stop, at, applied, func() {
				if err := f.Delete(t.Context(), f.role); err != nil {
					t.Fatal(err)
				}
			}, func() (bool, string) {
				err := f.Get(t.Context(), client.ObjectKeyFromObject(f.role), f.role)
				return client.IgnoreNotFound(err) == nil && err != nil, fmt.Sprint(f.role.Status.Conditions)
			})
			if got := f.Server.Query(t, "", "SELECT rolname FROM pg_roles WHERE rolname LIKE '"+owner+"%'"); len(got) != 0 {
				t.Errorf("roles stay: %v", got)
			}
			if got, err := f.As(f.Secret("orders"), "SELECT x FROM app.kept"); err != nil || got != "3" {
				t.Errorf("the claim reads %q from what the role made: %v", got, err)
			}
			return n
		},
	}
	for name, tell := range stories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			effects := 0
			t.Run("in peace", func(t *testing.T) { effects = tell(t, 0, false) })
			t.Logf("%d effects", effects)
			if effects < 5 {
				t.Fatalf("only %d effects were counted", effects)
			}
			for at := 1; at <= effects; at += 2 {
				for when, applied := range map[string]bool{"before": false, "after": true} {
					t.Run(fmt.Sprintf("%s effect %d", when, at), func(t *testing.T) {
						t.Parallel()
						tell(t, at, applied)
					})
				}
			}
		})
	}
}

// start makes the claim Ready.
func (f *fixture) start(t *testing.T) (stop func()) {
	t.Helper()
	stop = f.Run(t.Context())
	claim := f.Claim("orders", func(s *v1alpha1.DatabaseClaimSpec) { s.Schemas = []string{"app"} })
	f.Make(claim)
	f.Ready(claim)
	return stop
}

// check demands one login, with exactly the rights of the map.
func (f *fixture) check(t *testing.T, version int64) {
	t.Helper()
	c := f.role.Status.Credential
	if c.Version != version || c.Previous != "" {
		t.Errorf("the credential is %+v, want version %d alone", c, version)
	}
	open := f.Server.Query(t, "", "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname LIKE '"+f.role.Status.Owner+"%'")
	if got := strings.Join(open, " "); got != c.Login {
		t.Errorf("open logins: %s, want %s", got, c.Login)
	}
	if _, err := f.As(f.Secret("worker"), "CREATE TABLE app.works (x int)"); err != nil {
		t.Error(err)
	}
	if _, err := f.As(f.Secret("worker"), "CREATE TABLE public.works (x int)"); err == nil {
		t.Error("the role writes where its map names nothing")
	}
}
