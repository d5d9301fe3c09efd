package migration_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/backend/local"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/internal/testkit"
	kit "github.com/berth-dev/berth/internal/testkit/world"
	"github.com/berth-dev/berth/migration"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/postgres/replication"
)

// kind is a claim with a server of its own, and a controller of migrations.
type kind struct {
	*kit.World
	servers *local.Backend
	claim   *v1alpha1.DatabaseClaim
}

func newKind(t *testing.T) *kind {
	t.Helper()
	servers, err := local.New(local.Options{Dir: testkit.OpenDir(t), Bin: testkit.Bin(t, "pg"), DefaultMajor: 15, Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := servers.Close(); err != nil {
			t.Error(err)
		}
	})
	k := &kind{servers: servers}
	k.World = kit.New(t, kit.Options{
		Backends: map[string]backend.Backend{"local": servers},
		Class:    func(s *v1alpha1.DatabaseClassSpec) { s.Backend, s.Server, s.Dedicated = "local", nil, true },
	})
	k.run(t)
	k.claim = k.Claim("orders")
	k.Make(k.claim)
	k.Ready(k.claim)
	if _, err := k.As(k.Secret("orders"), "CREATE TABLE t (id bigserial PRIMARY KEY, v text); INSERT INTO t (v) SELECT 'v' || i FROM generate_series(1, 1000) i"); err != nil {
		t.Fatal(err)
	}
	return k
}

// run starts the controller of migrations until the test ends.
func (k *kind) run(t *testing.T) {
	t.Helper()
	access := rest.CopyConfig(testkit.APIServer(t))
	access.QPS = -1
	mgr, err := ctrl.NewManager(access, ctrl.Options{
		Scheme: kit.Scheme(), Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: ptr.To(true)},
		Cache: cache.Options{
			DefaultNamespaces: map[string]cache.Config{k.Namespace: {}},
			ByObject:          map[client.Object]cache.ByObject{&corev1.Secret{}: {Label: labels.SelectorFromSet(labels.Set{naming.ManagedByLabel: naming.ManagedBy})}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	pools := postgres.NewServers(postgres.Limits{})
	worker := &migration.Worker{
		Means: backend.Means{
			Client: mgr.GetClient(), Clock: clock.RealClock{}, Servers: pools,
			Finder: backend.Finder{Backends: map[string]backend.Backend{"local": k.servers}, Live: mgr.GetAPIReader()},
			Keeper: &credential.Keeper{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Clock: clock.RealClock{}},
		},
		Tools: func(major int) (replication.Tools, error) {
			bin := filepath.Join(testkit.Bin(t, "pg"), fmt.Sprint(major), "bin")
			return replication.Tools{Dump: filepath.Join(bin, "pg_dump"), Restore: filepath.Join(bin, "pg_restore")}, nil
		},
	}
	if err := worker.SetUp(ctx, mgr, 2); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the controller ended: %v", err)
		}
		pools.Close()
	})
}

func (k *kind) migrate(change func(*v1alpha1.MigrationSpec)) *v1alpha1.Migration {
	m := &v1alpha1.Migration{Spec: v1alpha1.MigrationSpec{Claim: "orders", To: v1alpha1.MigrationTarget{Version: "17"}}}
	m.Namespace, m.Name = k.Namespace, "up"
	if change != nil {
		change(&m.Spec)
	}
	k.Make(m)
	return m
}

// answers waits until the claim's Secret leads to a server of this major that
// has so many rows.
func (k *kind) answers(major, rows string) {
	k.Until("the Secret to lead to PostgreSQL "+major, func() (bool, string) {
		got, err := k.As(k.Secret("orders"), "INSERT INTO t (v) VALUES ('new'); SELECT current_setting('server_version_num')::int / 10000 || ' ' || count(*) FROM t")
		return err == nil && got == major+" "+rows, fmt.Sprint(got, err)
	})
}

func TestAClaimMovesToAnotherMajorAndBack(t *testing.T) {
	t.Parallel()
	k := newKind(t)
	m := k.migrate(func(s *v1alpha1.MigrationSpec) { s.Approval = "Manual" })
	k.Expect(m, v1alpha1.Switched, metav1.ConditionFalse, "ApprovalNeeded")
	if m.Status.Progress == nil || m.Status.Progress.Percent != 100 {
		t.Errorf("progress: %+v", m.Status.Progress)
	}
	k.Change(m, func() { m.Spec.Approved = true })
	k.Expect(m, v1alpha1.Closed, metav1.ConditionFalse, "Following")
	k.answers("17", "1001")
	k.Ready(k.claim)
	k.Change(m, func() { m.Spec.Serve = v1alpha1.SideSource })
	k.Until("the source to serve", func() (bool, string) {
		err := k.Get(t.Context(), client.ObjectKeyFromObject(m), m)
		return err == nil && m.Status.Serving == v1alpha1.SideSource, fmt.Sprint(m.Status.Conditions)
	})
	k.answers("15", "1002")
	k.Change(m, func() { m.Spec.Serve = v1alpha1.SideTarget })
	k.Until("the target to serve", func() (bool, string) {
		err := k.Get(t.Context(), client.ObjectKeyFromObject(m), m)
		return err == nil && m.Status.Serving == v1alpha1.SideTarget, fmt.Sprint(m.Status.Conditions)
	})
	k.Change(m, func() { m.Spec.Close = true })
	k.Expect(m, v1alpha1.Succeeded, metav1.ConditionTrue, v1alpha1.Succeeded)
	k.answers("17", "1003")
	for _, s := range m.Status.Switches {
		t.Logf("to %s: %d ms", s.To, s.PauseMS)
	}
	left, err := k.As(k.Secret("orders"), "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^berth')::text || (SELECT count(*) FROM pg_replication_slots) || (SELECT count(*) FROM pg_roles WHERE rolname ~ '^berth_m')")
	if err != nil || left != "000" {
		t.Errorf("left over: %s %v", left, err)
	}
	k.Gone(m)
}

// A claim that asks for the version too early is woken by the move alone.
func TestAClaimThatAskedForTheVersionHasIt(t *testing.T) {
	t.Parallel()
	k := newKind(t)
	k.Change(k.claim, func() { k.claim.Spec.DBVersion = "17" })
	k.Expect(k.claim, v1alpha1.ServerReady, metav1.ConditionFalse, "VersionMismatch")
	m := k.migrate(nil)
	k.Expect(m, v1alpha1.Closed, metav1.ConditionFalse, "Following")
	if !slices.ContainsFunc(m.Status.Findings, func(f v1alpha1.MigrationFinding) bool { return f.Code == "NoSwitchboard" }) {
		t.Errorf("nobody says that proxies are not paused: %v", m.Status.Findings)
	}
	began := time.Now()
	k.answers("17", "1001")
	k.Ready(k.claim)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("nobody told the claim: its Secret followed after %v", took)
	}
}

func TestADeletedMigrationLeavesTheClaimAsItWas(t *testing.T) {
	t.Parallel()
	k := newKind(t)
	m := k.migrate(func(s *v1alpha1.MigrationSpec) { s.Approval = "Manual" })
	k.Expect(m, v1alpha1.Switched, metav1.ConditionFalse, "ApprovalNeeded")
	second := &v1alpha1.Migration{Spec: v1alpha1.MigrationSpec{Claim: "orders", To: v1alpha1.MigrationTarget{Version: "18"}}}
	second.Namespace, second.Name = k.Namespace, "another"
	k.Make(second)
	k.Expect(second, v1alpha1.Admitted, metav1.ConditionFalse, "AnotherMigration")
	k.Gone(second)
	k.Gone(m)
	k.answers("15", "1001")
	k.Ready(k.claim)
	k.Until("the target's server to be gone", func() (bool, string) {
		ids, err := k.servers.List(t.Context())
		return err == nil && len(ids) == 1, fmt.Sprint(ids)
	})
}

func TestPreflightBlocksAMigration(t *testing.T) {
	t.Parallel()
	k := newKind(t)
	if _, err := k.As(k.Secret("orders"), "CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)"); err != nil {
		t.Fatal(err)
	}
	m := k.migrate(nil)
	k.Expect(m, v1alpha1.PreflightPassed, metav1.ConditionFalse, "Unlogged")
	if len(m.Status.Findings) == 0 || m.Status.Findings[0].Object != "public.fleeting" {
		t.Errorf("findings: %+v", m.Status.Findings)
	}
	k.Gone(m)
}
