package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/switchboard"
)

// migrating is a migration of claim orders to 17, whose status a test writes.
func (s *scene) migrating(serving string, conditions ...metav1.Condition) *v1alpha1.Migration {
	s.t.Helper()
	m := &v1alpha1.Migration{Spec: v1alpha1.MigrationSpec{Claim: "orders", To: v1alpha1.MigrationTarget{Version: "17"}}}
	m.Namespace, m.Name = s.namespace, "up"
	s.must(s.api.Create(s.t.Context(), m))
	m.Status.Name, m.Status.Serving, m.Status.Conditions, m.Status.ObservedGeneration = "berth_m_1", serving, conditions, m.Generation
	if serving == v1alpha1.SideTarget {
		m.Status.Switches = []v1alpha1.MigrationSwitch{{At: metav1.Now(), To: serving}}
	}
	for i := range m.Status.Conditions {
		m.Status.Conditions[i].LastTransitionTime = metav1.Now()
	}
	s.must(s.api.Status().Update(s.t.Context(), m))
	return m
}

func TestMigrateDoesNothingUnlessItIsConfirmed(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.claim("orders")
	s.refused((&MigrateCmd{Name: "orders", ToVersion: "17"}).run(t.Context(), s.desk), "add --yes")
	s.asks, s.in = true, strings.NewReader("yes\n")
	s.refused((&MigrateCmd{Name: "orders", ToVersion: "17"}).run(t.Context(), s.desk), "nothing was moved")
	if m, err := s.migration(t.Context(), "orders"); m != nil || err != nil {
		t.Errorf("a migration was made: %v %v", m, err)
	}
	m := s.migrating(v1alpha1.SideTarget)
	s.in = strings.NewReader("up\n")
	s.refused((&MigrateCmd{Name: "orders", Close: true}).run(t.Context(), s.desk), "nothing was closed")
	s.must(s.api.Get(t.Context(), client.ObjectKeyFromObject(m), m))
	if m.Spec.Close {
		t.Error("it is closed")
	}
}

func TestMigrateRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.refused((&MigrateCmd{Name: "absent", ToVersion: "17", Yes: true}).run(t.Context(), s.desk), "there is no DatabaseClaim absent")
	s.claim("orders")
	s.refused((&MigrateCmd{Name: "orders", Close: true, Yes: true}).run(t.Context(), s.desk), "nothing moves claim orders")
	s.refused((&RollbackCmd{Name: "orders"}).run(t.Context(), s.desk), "has not been moved")
	s.migrating(v1alpha1.SideSource, metav1.Condition{Type: v1alpha1.PreflightPassed, Status: metav1.ConditionFalse, Reason: "Unlogged", Message: "1 finding refuses the move."},
		metav1.Condition{Type: "Stalled", Status: metav1.ConditionTrue, Reason: "Unlogged"})
	s.refused((&MigrateCmd{Name: "orders", ToVersion: "18", Yes: true}).run(t.Context(), s.desk), "/up moves the claim to PostgreSQL 17")
	s.refused((&MigrateCmd{Name: "orders", ToVersion: "17", Preflight: true}).run(t.Context(), s.desk), "/up moves the claim to PostgreSQL 17")
	s.refused((&MigrateCmd{Name: "orders", Close: true, Yes: true}).run(t.Context(), s.desk), "has not switched yet")
	s.refused((&RollbackCmd{Name: "orders"}).run(t.Context(), s.desk), "nowhere to go back to")
}

func TestMigrateTellsWhereItIs(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.claim("orders")
	s.migrating(v1alpha1.SideSource, metav1.Condition{Type: v1alpha1.Succeeded, Status: metav1.ConditionFalse, Reason: "Copying", Message: "x"},
		metav1.Condition{Type: v1alpha1.RowsCopied, Status: metav1.ConditionFalse, Reason: "Copying", Message: "2 of 5 tables are copied."})
	err := (&MigrateCmd{Name: "orders", ToVersion: "17", Yes: true, Timeout: 3 * time.Second}).run(t.Context(), s.desk)
	s.refused(err, "not done after 3s, and berth get -w follows what comes: RowsCopied Copying: 2 of 5 tables are copied.")
}

// The proxies of role claims are on the database too, and nobody is told the administrator.
func TestAMoveIsOfAllProxiesOfADatabase(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	class := &v1alpha1.DatabaseClass{Spec: v1alpha1.DatabaseClassSpec{Backend: "local", SSLMode: "verify-full"}}
	class.Name = s.namespace
	s.must(s.api.Create(t.Context(), class))
	claim := &v1alpha1.DatabaseClaim{Spec: v1alpha1.DatabaseClaimSpec{Class: class.Name}}
	claim.Namespace, claim.Name = s.namespace, "orders"
	s.must(s.api.Create(t.Context(), claim))
	for name, source := range map[string]string{"reader": "orders", "other": "billing"} {
		role := &v1alpha1.RoleClaim{}
		role.Namespace, role.Name, role.Spec.SourceDatabaseClaim.Name = s.namespace, name, source
		s.must(s.api.Create(t.Context(), role))
	}
	admin := postgres.Target{Host: "new", Port: 5432, User: "postgres", Password: "hunter2", Database: "orders", SSLMode: "disable", RootCA: []byte("ca")}
	key := types.NamespacedName{Namespace: s.namespace, Name: "orders"}
	got, err := callers{s.api, switchboard.New(nil)}.order(t.Context(), key, admin)
	s.must(err)
	to := postgres.Target{Host: "new", Port: 5432, Database: "orders", SSLMode: "verify-full", RootCA: []byte("ca")}
	own := switchboard.Claim{Kind: naming.ClaimKind, ObjectKey: key}
	reader := switchboard.Claim{Kind: naming.RoleKind, ObjectKey: types.NamespacedName{Namespace: s.namespace, Name: "reader"}}
	want := switchboard.Order{
		Generation: 1, Claims: []switchboard.Claim{own, reader}, Budget: holdBudget, Targets: map[switchboard.Claim]postgres.Target{own: to, reader: to},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAControllerSaysWhichProgramsItLacks(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		folder string
		major  int
		err    string
	}{
		"no folder":                    {"", 15, "start it with --postgresql"},
		"a folder without the version": {testkit.Bin(t, "pg"), 9, "has no pg_dump of version 9"},
		"a folder with it":             {testkit.Bin(t, "pg"), 15, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tools, err := dumpTools(tc.folder)(tc.major)
			if tc.err == "" && (err != nil || !strings.HasSuffix(tools.Restore, "15/bin/pg_restore")) {
				t.Errorf("%v %v", tools, err)
			}
			if tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("error is %v, want one with %q", err, tc.err)
			}
		})
	}
}
