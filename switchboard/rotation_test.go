package switchboard_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/agent/sidecar"
	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/switchboard"
	"github.com/berth-dev/berth/switchboard/boardtest"
)

// runPod runs the dbproxy of a new pod.
func runPod(t *testing.T, e *boardtest.Exchange, name string, claim switchboard.Claim, log *page) *sidecar.Proxy {
	t.Helper()
	pgbouncer, err := exec.LookPath(testkit.Bin(t, "pgbouncer"))
	if err != nil {
		t.Fatal("pgbouncer is not in bin: run `make tools`")
	}
	p, err := sidecar.Start(sidecar.Spec{
		Agent: testkit.Agent(t), Pgbouncer: pgbouncer, Dir: testkit.OpenDir(t), Log: log,
		Flags: append(e.Flags(name, claim), "--drain", "2s"),
	})
	check(t, err)
	t.Cleanup(func() { check(t, p.Stop(10*time.Second)) })
	return p
}

func secretOf(t *testing.T, w *world.World, name string) map[string][]byte {
	t.Helper()
	secret := &corev1.Secret{}
	check(t, w.Get(t.Context(), client.ObjectKey{Namespace: w.Namespace, Name: name}, secret))
	return secret.Data
}

func TestARotationWaitsForEveryProxy(t *testing.T) {
	t.Parallel()
	log := &page{}
	board := switchboard.New(slog.New(slog.NewTextHandler(log, nil)))
	w := world.New(t, world.Options{Readers: board, Class: func(s *v1alpha1.DatabaseClassSpec) {
		s.Rotation.Propagation = &metav1.Duration{Duration: time.Second}
	}})
	e := boardtest.Serve(t, board, slog.NewTextHandler(log, nil))
	c := w.Claim("orders")
	w.Make(c)
	w.Ready(c)
	claim := switchboard.Claim{Kind: naming.ClaimKind, ObjectKey: client.ObjectKeyFromObject(c)}
	first := secretOf(t, w, "orders")
	proxies := []*sidecar.Proxy{runPod(t, e, "pod-0", claim, log), runPod(t, e, "pod-1", claim, log)}
	for _, p := range proxies {
		check(t, p.Show(first))
		check(t, p.AwaitLogin(t.Context(), string(first["username"])))
	}
	consumers := func(current int32, waiting ...string) {
		t.Helper()
		want := &v1alpha1.Consumers{Proxies: 2, Current: current, Waiting: waiting, Sidecars: []v1alpha1.Sidecars{{Kind: "dbproxy", Revision: "berth:1", Pods: 2}}}
		w.Until("the claim tells its consumers", func() (bool, string) {
			check(t, w.Get(t.Context(), client.ObjectKeyFromObject(c), c))
			diff := cmp.Diff(want, c.Status.Consumers)
			return diff == "", diff
		})
	}
	consumers(2)

	w.Change(c, func() { c.Spec.Rotation.MinVersion = 2 })
	w.Expect(c, v1alpha1.NoStaleLogin, metav1.ConditionFalse, "Propagating")
	second := secretOf(t, w, "orders")
	check(t, proxies[0].Show(second))
	waits := w.Expect(c, v1alpha1.NoStaleLogin, metav1.ConditionFalse, "AwaitingProxies")
	w.Until("one proxy is waited for", func() (bool, string) {
		waits = w.Expect(c, v1alpha1.NoStaleLogin, metav1.ConditionFalse, "AwaitingProxies")
		return strings.Contains(waits.Message, " pod-1.") && !strings.Contains(waits.Message, "pod-0"), waits.Message
	})
	consumers(1, "pod-1")
	w.Ready(c)
	if _, err := w.As(stringly(first), "SELECT 1"); err != nil {
		t.Errorf("the login that a pod uses is closed: %v", err)
	}

	check(t, proxies[1].Show(map[string][]byte{"hostname": []byte("nowhere")}))
	w.Until("the trouble of a proxy is told", func() (bool, string) {
		check(t, w.Get(t.Context(), client.ObjectKeyFromObject(c), c))
		return len(c.Status.Consumers.Troubled) == 1 && c.Status.Consumers.Troubled[0].Pod == "pod-1", fmt.Sprint(c.Status.Consumers)
	})
	check(t, proxies[1].Show(second))
	w.Expect(c, v1alpha1.NoStaleLogin, metav1.ConditionTrue, "")
	consumers(2)
	if _, err := w.As(stringly(first), "SELECT 1"); err == nil {
		t.Error("the previous login is still open")
	}
	before := c.ResourceVersion
	<-time.After(3 * time.Second)
	check(t, w.Get(t.Context(), client.ObjectKeyFromObject(c), c))
	if c.ResourceVersion != before {
		t.Error("the claim is written though nothing changes")
	}
	for _, data := range []map[string][]byte{first, second} {
		if bytes.Contains([]byte(log.String()), data["password"]) {
			t.Errorf("a password is logged:\n%s", log)
		}
	}
	if text, _ := json.Marshal(c.Status); bytes.Contains(text, second["password"]) {
		t.Error("the status tells the password")
	}
}

func stringly(data map[string][]byte) map[string]string {
	out := map[string]string{}
	for key, value := range data {
		out[key] = string(value)
	}
	return out
}
