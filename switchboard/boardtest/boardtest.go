// Package boardtest serves a switchboard in a test, over TLS on loopback, and
// makes what a proxy needs to be let in: a pod and its token, on the real API
// server. It makes no claim and runs no proxy.
package boardtest

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/switchboard"
	"github.com/berth-dev/berth/switchboard/wire"
	"github.com/berth-dev/berth/webhook"
)

// Exchange is a board that is served.
type Exchange struct {
	*switchboard.Board
	API       client.Client
	Namespace string // of its certificates
	Address   string

	t    testing.TB
	stop func()
}

// Serve serves board, or a new one for nil, until the test ends.
func Serve(t testing.TB, board *switchboard.Board, log slog.Handler) *Exchange {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	if board == nil {
		board = switchboard.New(slog.New(log))
	}
	e := &Exchange{Board: board, API: testkit.Client(t, scheme), Namespace: testkit.Namespace(t), t: t}
	e.until("the API server tells of the kind that it serves", func() (bool, any) {
		err := e.API.List(t.Context(), &v1alpha1.DatabaseClaimList{}, client.Limit(1))
		return err == nil, err
	})
	e.listen(log)
	t.Cleanup(func() { e.stop() })
	return e
}

func (e *Exchange) listen(log slog.Handler) {
	e.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		e.t.Fatal(err)
	}
	e.Address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- switchboard.Serve(ctx, switchboard.Options{
			Board: e.Board, API: e.API, Listener: listener, Namespace: e.Namespace, Log: slog.New(log),
		})
	}()
	e.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			e.t.Errorf("the switchboard ended: %v", err)
		}
	})
}

// Stop ends it as a crash does: streams break, and the board knows nothing more.
func (e *Exchange) Stop() { e.stop() }

// until waits for holds, which says what it saw last.
func (e *Exchange) until(what string, holds func() (bool, any)) {
	e.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		ok, saw := holds()
		if ok {
			return
		}
		select {
		case <-deadline:
			e.t.Fatalf("waiting until %s: %v", what, saw)
		case <-tick.C:
		}
	}
}

// Authorities waits for the certificates and returns whom to trust, as PEM.
func (e *Exchange) Authorities() string {
	e.t.Helper()
	notice := &corev1.ConfigMap{}
	e.until("the switchboard tells where it is", func() (bool, any) {
		err := e.API.Get(e.t.Context(), client.ObjectKey{Namespace: e.Namespace, Name: webhook.SwitchboardNotice}, notice)
		return err == nil && notice.Data["ca.crt"] != "", err
	})
	return notice.Data["ca.crt"]
}

// Claim makes a DatabaseClaim, which no controller works on, and names it.
func (e *Exchange) Claim(namespace, name string) switchboard.Claim {
	e.t.Helper()
	claim := &v1alpha1.DatabaseClaim{}
	claim.Namespace, claim.Name = namespace, name
	if err := e.API.Create(e.t.Context(), claim); err != nil {
		e.t.Fatal(err)
	}
	return switchboard.Claim{Kind: naming.ClaimKind, ObjectKey: client.ObjectKeyFromObject(claim)}
}

// Pod makes a pod that asks for a dbproxy of claim and mounts secret.
func (e *Exchange) Pod(namespace, name, claim, secret string) *corev1.Pod {
	e.t.Helper()
	account := &corev1.ServiceAccount{}
	account.Namespace, account.Name = namespace, "default"
	if err := client.IgnoreAlreadyExists(e.API.Create(e.t.Context(), account)); err != nil {
		e.t.Fatal(err)
	}
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name = namespace, name
	pod.Labels = map[string]string{"berth.dev/claim": claim, "berth.dev/dbproxy": "enabled"}
	pod.Spec = corev1.PodSpec{
		ServiceAccountName: account.Name, Containers: []corev1.Container{{Name: "app", Image: "app:1"}},
		InitContainers: []corev1.Container{{Name: "dbproxy", Image: "berth:1", Command: []string{"berth-agent", "dbproxy"}}},
		Volumes:        []corev1.Volume{{Name: "berth-credential", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}},
	}
	if err := e.API.Create(e.t.Context(), pod); err != nil {
		e.t.Fatal(err)
	}
	return pod
}

// Token is one for audience, bound to pod unless that is nil.
func (e *Exchange) Token(namespace string, pod *corev1.Pod, audience string) string {
	e.t.Helper()
	account := &corev1.ServiceAccount{}
	account.Namespace, account.Name = namespace, "default"
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}}}
	if pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	if err := e.API.SubResource("token").Create(e.t.Context(), account, request); err != nil {
		e.t.Fatal(err)
	}
	return request.Status.Token
}

// Flags has the dbproxy of a new pod report for claim, whose Secret has its name.
func (e *Exchange) Flags(pod string, claim switchboard.Claim) []string {
	e.t.Helper()
	token := e.Token(claim.Namespace, e.Pod(claim.Namespace, pod, claim.Name, claim.Name), wire.Audience)
	file := filepath.Join(testkit.OpenDir(e.t), "token")
	if err := os.WriteFile(file, []byte(token), 0o644); err != nil { // the agent is another account
		e.t.Fatal(err)
	}
	return []string{"--claim", claim.Name, "--switchboard", e.Address, "--switchboard-ca=" + e.Authorities(), "--switchboard-token", file}
}

// AwaitReaders waits until holds is true of the proxies of claim, by pod and login.
func (e *Exchange) AwaitReaders(claim switchboard.Claim, what string, holds func(logins map[string]string) bool) {
	e.t.Helper()
	e.until(what, func() (bool, any) {
		logins := map[string]string{}
		for _, r := range e.Readers(claim.Kind, claim.ObjectKey) {
			logins[r.Pod] = r.Login
		}
		return holds(logins), logins
	})
}
