package role_test

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func roleClaim(w *world.World, name string, access map[string]v1alpha1.SchemaRole) *v1alpha1.RoleClaim {
	r := &v1alpha1.RoleClaim{Spec: v1alpha1.RoleClaimSpec{
		SourceDatabaseClaim: v1alpha1.ClaimReference{Name: "orders"}, SchemaRoleMap: access,
	}}
	r.Namespace, r.Name = w.Namespace, name
	return r
}

func TestRolesHaveExactlyTheirRights(t *testing.T) {
	t.Parallel()
	for _, major := range testkit.Majors {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			server := testkit.Postgres(t, major)
			w := world.New(t, world.Options{Server: server, Admin: ptr.To(server.Admin(t))})
			claim := w.Claim("orders", func(s *v1alpha1.DatabaseClaimSpec) { s.Schemas = []string{"app"} })
			w.Make(claim)
			w.Ready(claim)
			owner := w.Secret("orders")
			reader := roleClaim(w, "reader", map[string]v1alpha1.SchemaRole{"app": v1alpha1.ReadOnly})
			writer := roleClaim(w, "writer", map[string]v1alpha1.SchemaRole{"app": v1alpha1.Regular, "extra": v1alpha1.Admin})
			w.Make(reader)
			w.Make(writer)
			w.Ready(reader)
			w.Ready(writer)
			if _, err := w.As(owner, "CREATE TABLE app.late (x int)"); err != nil {
				t.Fatal(err)
			}
			for what, step := range map[string]struct {
				secret, sql string
				allowed     bool
			}{
				"a reader reads a table made later":     {"reader", "SELECT * FROM app.late", true},
				"a reader writes nothing":               {"reader", "INSERT INTO app.late VALUES (1)", false},
				"a reader deletes nothing":              {"reader", "DELETE FROM app.late", false},
				"a reader makes no table":               {"reader", "CREATE TABLE app.mine (x int)", false},
				"a writer writes a table made later":    {"writer", "INSERT INTO app.late VALUES (1)", true},
				"an administrator of a schema makes it": {"writer", "CREATE TABLE extra.mine (x int)", true},
				"a writer is kept out of public":        {"writer", "CREATE TABLE public.mine (x int)", false},
			} {
				if _, err := w.As(w.Secret(step.secret), step.sql); (err == nil) != step.allowed {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

func TestRoleMapChangesActAtOnce(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	claim := w.Claim("orders", func(s *v1alpha1.DatabaseClaimSpec) { s.Schemas = []string{"app"} })
	w.Make(claim)
	r := roleClaim(w, "worker", map[string]v1alpha1.SchemaRole{"app": v1alpha1.Regular})
	w.Make(r)
	w.Ready(r)
	if _, err := w.As(w.Secret("worker"), "CREATE TABLE app.t (x int); INSERT INTO app.t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	w.Change(r, func() { r.Spec.SchemaRoleMap = map[string]v1alpha1.SchemaRole{"app": v1alpha1.ReadOnly} })
	w.Ready(r)
	if _, err := w.As(w.Secret("worker"), "INSERT INTO app.t VALUES (2)"); err == nil {
		t.Error("a role that may only read still writes")
	}
	if got, err := w.As(w.Secret("worker"), "SELECT count(*) FROM app.t"); err != nil || got != "1" {
		t.Errorf("it reads %q: %v", got, err)
	}
}

func TestCopyFollowsTheClaim(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	claim := w.Claim("orders")
	w.Make(claim)
	r := roleClaim(w, "copy", nil)
	w.Make(r)
	w.Ready(r)
	w.Ready(claim)
	w.Change(claim, func() { claim.Spec.Rotation.MinVersion = 2 })
	w.Until("the copy to tell the second login", func() (bool, string) {
		return w.Secret("copy")["username"] == claim.Status.Owner+"_b", w.Secret("copy")["username"]
	})
	if _, err := w.As(w.Secret("copy"), "SELECT 1"); err != nil {
		t.Error(err)
	}
}

func TestOtherNamespacesNeedAnInvitation(t *testing.T) {
	t.Parallel()
	other := world.New(t, world.Options{Idle: true})
	w := world.New(t, world.Options{Also: []string{other.Namespace}})
	claim := other.Claim("orders")
	w.Make(claim)
	r := roleClaim(w, "evil", nil)
	r.Spec.SourceDatabaseClaim.Namespace = other.Namespace
	w.Make(r)
	w.Expect(r, v1alpha1.SourceReady, metav1.ConditionFalse, "NamespaceNotAllowed")
	w.Change(claim, func() { claim.Spec.AllowedNamespaces = []string{w.Namespace} })
	w.Expect(r, v1alpha1.SourceReady, metav1.ConditionFalse, "ClaimNotReady")
}

func TestRoleGoesWithItsClaim(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	claim := w.Claim("orders", func(s *v1alpha1.DatabaseClaimSpec) { s.Schemas = []string{"app"} })
	w.Make(claim)
	r := roleClaim(w, "worker", map[string]v1alpha1.SchemaRole{"app": v1alpha1.Regular})
	w.Make(r)
	w.Ready(r)
	if _, err := w.As(w.Secret("worker"), "CREATE TABLE app.theirs (x int)"); err != nil {
		t.Fatal(err)
	}
	owner := r.Status.Owner
	t.Run("dropped at once when it is deleted itself, its tables kept", func(t *testing.T) {
		w.Gone(r)
		if got := w.Server.Query(t, "", "SELECT rolname FROM pg_roles WHERE rolname LIKE '"+owner+"%'"); len(got) != 0 {
			t.Errorf("roles stay: %v", got)
		}
		if got, err := w.As(w.Secret("orders"), "SELECT count(*) FROM app.theirs"); err != nil || got != "0" {
			t.Errorf("the claim reads its table: %q, %v", got, err)
		}
	})
	t.Run("never stuck when the claim went first, and swept then", func(t *testing.T) {
		again := roleClaim(w, "worker", map[string]v1alpha1.SchemaRole{"app": v1alpha1.Regular})
		w.Make(again)
		w.Ready(again)
		w.Gone(claim)
		w.Expect(again, v1alpha1.SourceReady, metav1.ConditionFalse, "ClaimNotFound")
		w.Gone(again)
		w.Until("the sweeper to drop the role", func() (bool, string) {
			w.Sweeper.Sweep(t.Context())
			got := w.Server.Query(t, "", "SELECT rolname FROM pg_roles WHERE rolname LIKE '"+owner+"%'")
			return len(got) == 0, fmt.Sprint(got)
		})
	})
}
