package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/agent/sidecar"
	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/switchboard/wire"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// podProxy runs the dbproxy of a new pod of namespace default, as the webhook
// asked for it, and shows it the claim's Secret once.
func podProxy(t *testing.T, api client.Client, claim string) *sidecar.Proxy {
	t.Helper()
	account := &corev1.ServiceAccount{}
	account.Namespace, account.Name = "default", "default"
	check(t, client.IgnoreAlreadyExists(api.Create(t.Context(), account)))
	pod := &corev1.Pod{}
	pod.Namespace, pod.GenerateName = "default", "pod-"
	pod.Labels = map[string]string{"berth.dev/claim": claim, "berth.dev/dbproxy": "enabled"}
	pod.Spec.ServiceAccountName, pod.Spec.Containers = "default", []corev1.Container{{Name: "app", Image: "app:1"}}
	check(t, api.Create(t.Context(), pod))
	token := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{wire.Audience}, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	check(t, api.SubResource("token").Create(t.Context(), account, token))
	file := filepath.Join(testkit.OpenDir(t), "token")
	check(t, os.WriteFile(file, []byte(token.Status.Token), 0o644)) // the agent is another account
	env := map[string]string{}
	for _, e := range pod.Spec.InitContainers[0].Env {
		env[e.Name] = e.Value
	}
	log := &output{}
	p, err := sidecar.Start(sidecar.Spec{
		Agent: testkit.Agent(t), Pgbouncer: testkit.Bin(t, "pgbouncer"), Dir: testkit.OpenDir(t), Log: log,
		Flags: []string{"--drain=2s", "--claim", claim, "--switchboard", env["BERTH_SWITCHBOARD"], "--switchboard-ca=" + env["BERTH_SWITCHBOARD_CA"], "--switchboard-token", file},
	})
	check(t, err)
	t.Cleanup(func() {
		check(t, p.Stop(10*time.Second))
		if t.Failed() {
			t.Logf("the dbproxy of %s said:\n%s", pod.Name, log)
		}
	})
	secret := &corev1.Secret{}
	check(t, api.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: claim}, secret))
	check(t, p.Show(secret.Data))
	check(t, p.AwaitLogin(t.Context(), string(secret.Data["username"])))
	return p
}

// ledger is what writers were told is written.
type ledger struct {
	load sidecar.Load
	mu   sync.Mutex
	told map[string]bool
}

func (l *ledger) write(ctx context.Context, conn *pgx.Conn) error {
	var uid string
	err := conn.QueryRow(ctx, "INSERT INTO visit DEFAULT VALUES RETURNING uid::text").Scan(&uid)
	if err == nil {
		l.mu.Lock()
		l.told[uid] = true
		l.mu.Unlock()
	}
	return err
}

// writing starts four writers at each proxy; the function it returns ends them
// and expects that none failed, and all they were told at the claim's server.
func writing(t *testing.T, api client.Client, proxies ...*sidecar.Proxy) (end func(major string)) {
	working, rest := context.WithCancel(t.Context())
	l := &ledger{told: map[string]bool{}}
	var group sync.WaitGroup
	for i := range 4 * len(proxies) {
		group.Go(func() {
			l.load.Stay(context.WithoutCancel(working), working, proxies[i/4].Target("default_orders"), 5*time.Millisecond, l.write)
		})
	}
	t.Cleanup(func() { rest(); group.Wait() })
	return func(major string) {
		t.Helper()
		rest()
		group.Wait()
		if l.load.Failed > 0 || len(l.told) == 0 {
			t.Errorf("%d of %d writes failed, the first with %v", l.load.Failed, l.load.Failed+l.load.Done, l.load.First)
		}
		var have []string
		eventually(t, "the Secret to lead to PostgreSQL "+major, func() (bool, string) {
			conn, err := pgx.Connect(t.Context(), uriOf(t, api, "orders"))
			if err != nil {
				return false, err.Error()
			}
			defer conn.Close(t.Context())
			var at string
			check(t, conn.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int / 10000 || '', (SELECT array_agg(uid::text) FROM visit)").Scan(&at, &have))
			return at == major, at
		})
		lost := maps.Clone(l.told)
		for _, uid := range have {
			delete(lost, uid)
		}
		if len(lost) > 0 || len(slices.Compact(slices.Sorted(slices.Values(have)))) != len(have) {
			t.Errorf("%d of %d acknowledged writes are lost", len(lost), len(l.told))
		}
		t.Logf("to %s: %d writes, the longest took %s", major, len(l.told), l.load.Longest.Round(time.Millisecond))
	}
}

func TestAClaimMovesBeneathTwoProxies(t *testing.T) {
	t.Parallel()
	data := filepath.Join(testkit.OpenDir(t), "dev")
	_, _, api := startDev(t, data)
	claim := &v1alpha1.DatabaseClaim{Spec: v1alpha1.DatabaseClaimSpec{Class: "dedicated", DBVersion: "15"}}
	claim.Namespace, claim.Name = "default", "orders"
	check(t, api.Create(t.Context(), claim))
	conn, err := pgx.Connect(t.Context(), uriOf(t, api, "orders"))
	check(t, err)
	_, err = conn.Exec(t.Context(), "CREATE TABLE visit (id bigserial PRIMARY KEY, uid uuid DEFAULT gen_random_uuid())")
	check(t, err)
	check(t, conn.Close(t.Context()))
	expectReportingProxy(t, api, "orders")
	proxies := []*sidecar.Proxy{podProxy(t, api, "orders"), podProxy(t, api, "orders")}
	eventually(t, "both proxies to report", func() (bool, string) {
		check(t, api.Get(t.Context(), client.ObjectKeyFromObject(claim), claim))
		return claim.Status.Consumers != nil && claim.Status.Consumers.Proxies == 2, fmt.Sprint(claim.Status.Consumers)
	})
	access, err := clientcmd.BuildConfigFromFlags("", filepath.Join(data, "kubeconfig"))
	check(t, err)
	s := sceneAs(t, access, "default")
	up := MigrateCmd{Name: "orders", ToVersion: "17", Yes: true, Timeout: 2 * time.Minute}
	forecast := up
	forecast.Preflight = true
	check(t, forecast.run(t.Context(), s.desk))
	s.shows("Nothing refuses the move of orders to PostgreSQL 17.")
	for _, tc := range []struct {
		major string
		run   func(context.Context, *desk) error
	}{
		{"17", up.run}, {"15", (&RollbackCmd{Name: "orders", Timeout: 2 * time.Minute}).run}, {"17", up.run},
	} {
		s.out.Reset()
		end := writing(t, api, proxies...)
		check(t, tc.run(t.Context(), s.desk))
		s.shows("Claim orders is on PostgreSQL "+tc.major, "; 0 sessions past the proxies were ended.")
		t.Log(s.out.String())
		end(tc.major)
	}
	s.must((&GetCmd{Name: "orders"}).run(t.Context(), s.desk))
	s.shows("to PostgreSQL 17, target has the clients")
	check(t, (&MigrateCmd{Name: "orders", Close: true, Yes: true, Timeout: 2 * time.Minute}).run(t.Context(), s.desk))
	s.shows(" is closed.\n")
}
