package switchboard_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/switchboard"
	"github.com/berth-dev/berth/switchboard/boardtest"
	"github.com/berth-dev/berth/switchboard/wire"
)

func roleClaim(t *testing.T, e *boardtest.Exchange, namespace, name string, change func(*v1alpha1.RoleClaimSpec)) switchboard.Claim {
	t.Helper()
	role := &v1alpha1.RoleClaim{Spec: v1alpha1.RoleClaimSpec{SourceDatabaseClaim: v1alpha1.ClaimReference{Name: "orders"}}}
	role.Namespace, role.Name = namespace, name
	change(&role.Spec)
	check(t, e.API.Create(t.Context(), role))
	return switchboard.Claim{Kind: naming.RoleKind, ObjectKey: client.ObjectKeyFromObject(role)}
}

func TestWhoIsLetIn(t *testing.T) {
	t.Parallel()
	e := serve(t)
	home, elsewhere := testkit.Namespace(t), testkit.Namespace(t)
	orders := e.Claim(home, "orders")
	reader := roleClaim(t, e, home, "reader", func(s *v1alpha1.RoleClaimSpec) {
		s.SchemaRoleMap = map[string]v1alpha1.SchemaRole{"public": v1alpha1.ReadOnly}
	})
	roleClaim(t, e, home, "copy", func(*v1alpha1.RoleClaimSpec) {})
	roleClaim(t, e, elsewhere, "thief", func(s *v1alpha1.RoleClaimSpec) { s.SourceDatabaseClaim.Namespace = home })
	good := e.Pod(home, "good", "orders", "orders")
	token := func(pod *corev1.Pod) string { return e.Token(pod.Namespace, pod, wire.Audience) }
	unlabelled := e.Pod(home, "unlabelled", "orders", "orders")
	unlabelled.Labels = nil
	check(t, e.API.Update(t.Context(), unlabelled))
	gone := e.Pod(home, "gone", "orders", "orders")
	tokenOfGone := token(gone)
	check(t, e.API.Delete(t.Context(), gone, client.GracePeriodSeconds(0)))
	for name, tc := range map[string]struct {
		token string
		hello any
		code  int
		says  string
		in    *switchboard.Claim
	}{
		"a pod of the claim":                 {token(good), wire.Hello{Version: 1, Claim: "orders"}, 200, "", &orders},
		"one that says more than we know":    {token(good), map[string]any{"version": 1, "claim": "orders", "ofLater": 1}, 200, "", &orders},
		"a pod of a role claim":              {token(e.Pod(home, "reads", "reader", "reader")), wire.Hello{Version: 1, Claim: "reader"}, 200, "", &reader},
		"a copy is the claim it copies":      {token(e.Pod(home, "copies", "copy", "copy")), wire.Hello{Version: 1, Claim: "copy"}, 200, "", &orders},
		"nobody":                             {"", wire.Hello{Version: 1, Claim: "orders"}, 401, "no bearer token", nil},
		"a token that is none":               {"abc", wire.Hello{Version: 1, Claim: "orders"}, 401, "not valid for audience berth.dev", nil},
		"a token for another audience":       {e.Token(home, good, "other.dev"), wire.Hello{Version: 1, Claim: "orders"}, 401, "not valid for audience berth.dev", nil},
		"a token that is bound to no pod":    {e.Token(home, nil, wire.Audience), wire.Hello{Version: 1, Claim: "orders"}, 403, "not bound to a pod", nil},
		"the token of a pod that is gone":    {tokenOfGone, wire.Hello{Version: 1, Claim: "orders"}, 401, "not valid", nil},
		"a pod of another namespace":         {token(e.Pod(elsewhere, "foreign", "orders", "orders")), wire.Hello{Version: 1, Claim: "orders"}, 403, "mounts no Secret", nil},
		"a copy that the claim does not let": {token(e.Pod(elsewhere, "steals", "thief", "thief")), wire.Hello{Version: 1, Claim: "thief"}, 403, "lets namespace " + elsewhere + " in", nil},
		"a pod of another claim":             {token(e.Pod(home, "other", "reader", "reader")), wire.Hello{Version: 1, Claim: "orders"}, 403, "do not ask for a dbproxy of claim", nil},
		"a pod that asks for no proxy":       {token(unlabelled), wire.Hello{Version: 1, Claim: "orders"}, 403, "do not ask for a dbproxy", nil},
		"a pod that only says so":            {token(e.Pod(home, "says", "orders", "something")), wire.Hello{Version: 1, Claim: "orders"}, 403, "mounts no Secret", nil},
		"a contract of tomorrow":             {token(good), wire.Hello{Version: 2, Claim: "orders"}, 400, "version 1", nil},
		"a generation to end all":            {token(good), wire.Hello{Version: 1, Claim: "orders", Generation: 1 << 63}, 400, "values", nil},
		"a hello that is too long":           {token(good), wire.Hello{Version: 1, Claim: strings.Repeat("x", wire.MaxBody)}, 400, "too long", nil},
		"a hello that is none":               {token(good), "hello", 400, "not what it has to be", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer, err := post(t.Context(), newClient(t, e), "https://"+e.Address+wire.Path, tc.token, tc.hello)
			check(t, err)
			defer func() { _ = answer.Body.Close() }()
			text, err := bufio.NewReader(answer.Body).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			if answer.StatusCode != tc.code || !strings.Contains(text, tc.says) {
				t.Fatalf("answer %d %s, want %d %s", answer.StatusCode, text, tc.code, tc.says)
			}
			if tc.in != nil && len(e.Readers(tc.in.Kind, tc.in.ObjectKey)) == 0 {
				t.Errorf("it is not among the proxies of %s", tc.in)
			}
		})
	}
}

func TestReportsAreOfTheSamePod(t *testing.T) {
	t.Parallel()
	e := serve(t)
	claim := e.Claim(testkit.Namespace(t), "orders")
	p := join(t, e, claim, "pod-0", obedient)
	thief := join(t, e, claim, "pod-1", obedient)
	thief.session = p.session
	report := wire.Report{Usage: wire.Usage{Login: "orders_b"}}
	if code := thief.report(t.Context(), report); code != http.StatusNotFound {
		t.Errorf("another pod's report gets %d", code)
	}
	if code := p.report(t.Context(), report); code != http.StatusNoContent {
		t.Errorf("its own report gets %d", code)
	}
	e.AwaitReaders(claim, "its report counts, and for itself alone", func(logins map[string]string) bool {
		return logins["pod-0"] == "orders_b" && logins["pod-1"] == "orders_a"
	})
	p.report(t.Context(), wire.Report{Leaving: true})
	if code := p.report(t.Context(), report); code != http.StatusNotFound {
		t.Errorf("a report after the end gets %d", code)
	}
}

// Callers that dawdle are let go, and keep nobody out.
func TestSlowCallersAreLetGo(t *testing.T) {
	t.Parallel()
	e := serve(t)
	claim := e.Claim(testkit.Namespace(t), "orders")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(e.Authorities()))
	for name, says := range map[string]string{
		"with the handshake": "",
		"with the headers":   "POST /v1/proxies HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"with the hello":     "POST /v1/proxies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: 1000\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", e.Address)
			check(t, err)
			if says != "" {
				conn = tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
			}
			defer func() { _ = conn.Close() }()
			_, err = fmt.Fprint(conn, says)
			check(t, err)
			check(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
			began := time.Now()
			if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Errorf("it is still listened to after %v", time.Since(began))
			}
		})
	}
	join(t, e, claim, "pod-0", obedient)
}
