package broker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/berth-dev/berth/broker"
	"github.com/berth-dev/berth/canopy"
	"github.com/berth-dev/berth/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// service issues sessions that live for an hour of the test's clock.
type service struct {
	asked atomic.Int64
	fail  atomic.Pointer[canopy.Refusal]
	now   atomic.Int64 // seconds
}

func (s *service) time() time.Time { return time.Unix(1_800_000_000+s.now.Load(), 0) }

func (s *service) session(_ context.Context, group, kind, _ string) (canopy.Session, error) {
	n := s.asked.Add(1)
	if refused := s.fail.Load(); refused != nil {
		return canopy.Session{}, refused
	}
	var session canopy.Session
	session.Credentials.AccessKeyId, session.Credentials.SecretAccessKey = fmt.Sprintf("%s-%s-%d", group, kind, n), "hidden"
	session.Credentials.Expiration, session.RepoPassword = s.time().Add(time.Hour), "hidden"
	return session, nil
}

func identify(_ context.Context, token string) (broker.Scope, error) {
	if token != "token" {
		return broker.Scope{}, broker.ErrUnknown
	}
	return broker.Scope{Group: "g", Type: "t"}, nil
}

func start(t *testing.T, s *service) *httptest.Server {
	t.Helper()
	o := broker.Options{Identify: identify, Now: s.time, Log: slog.New(slog.DiscardHandler), Upstream: s.session}
	server := httptest.NewServer(broker.New(o).Handler())
	t.Cleanup(server.Close)
	return server
}

func ask(t *testing.T, server *httptest.Server, token, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/internal/restore-creds", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, strings.TrimSpace(string(text))
}

const good = `{"group":"g","type":"t"}`

func key(t *testing.T, server *httptest.Server, body string) string {
	t.Helper()
	status, text := ask(t, server, "token", body)
	var s canopy.Session
	if err := json.Unmarshal([]byte(text), &s); err != nil || status != http.StatusOK || s.RepoPassword != "hidden" {
		t.Fatalf("answered %d %s", status, text)
	}
	return s.Credentials.AccessKeyId
}

func TestASessionIsKeptUntilTwoMinutesBeforeItsEnd(t *testing.T) {
	t.Parallel()
	s := &service{}
	server := start(t, s)
	for _, step := range []struct {
		at   int64
		body string
		want string
	}{
		{0, good, "g-t-1"}, {3479, good, "g-t-1"}, {3480, good, "g-t-2"}, {3481, `{"group":"g","type":"t","run_id":"r"}`, "g-t-3"}, {3482, good, "g-t-2"},
	} {
		s.now.Store(step.at)
		if got := key(t, server, step.body); got != step.want {
			t.Errorf("after %d s: %s, want %s", step.at, got, step.want)
		}
	}
}

func TestManyCallersCauseOneQuestion(t *testing.T) {
	t.Parallel()
	s := &service{}
	server := start(t, s)
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			if status, text := ask(t, server, "token", good); status != http.StatusOK {
				t.Errorf("answered %d %s", status, text)
			}
		})
	}
	callers.Wait()
	if got := s.asked.Load(); got != 1 {
		t.Errorf("%d questions", got)
	}
}

func TestTheServicesAnswerIsMirrored(t *testing.T) {
	t.Parallel()
	for upstream, want := range map[int]int{403: 403, 409: 409, 429: 429, 502: 502, 500: 502} {
		s := &service{}
		s.fail.Store(&canopy.Refusal{Status: upstream, Reason: "why"})
		server := start(t, s)
		if status, text := ask(t, server, "token", good); status != want || text != `{"error":"why"}` {
			t.Errorf("%d became %d %s", upstream, status, text)
		}
		s.fail.Store(nil)
		if got := key(t, server, good); got != "g-t-2" {
			t.Errorf("a failure was kept: %s", got)
		}
	}
}

func TestWhoMayNotAsk(t *testing.T) {
	t.Parallel()
	s := &service{}
	server := start(t, s)
	for name, tc := range map[string]struct {
		token, body string
		status      int
	}{
		"without a token":     {"", good, http.StatusUnauthorized},
		"with another token":  {"other", good, http.StatusUnauthorized},
		"for another group":   {"token", `{"group":"other","type":"t"}`, http.StatusForbidden},
		"for another type":    {"token", `{"group":"g","type":"other"}`, http.StatusForbidden},
		"for no group":        {"token", `{"type":"t"}`, http.StatusBadRequest},
		"with no JSON":        {"token", "group=g", http.StatusBadRequest},
		"with too much of it": {"token", `{"group":"g","type":"` + strings.Repeat("t", 5000) + `"}`, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if status, text := ask(t, server, tc.token, tc.body); status != tc.status || strings.Contains(text, "hidden") {
				t.Errorf("answered %d %s", status, text)
			}
			if s.asked.Load() != 0 {
				t.Error("the service was asked")
			}
		})
	}
	silent := httptest.NewServer(broker.New(broker.Options{Identify: identify, Log: slog.New(slog.DiscardHandler)}).Handler())
	t.Cleanup(silent.Close)
	if status, text := ask(t, silent, "token", good); status != http.StatusServiceUnavailable || text != `{"error":"canopy client not configured on operator"}` {
		t.Errorf("without a service: %d %s", status, text)
	}
}

// A real API server makes the tokens and reviews them.
func TestTokensOfPods(t *testing.T) {
	t.Parallel()
	api := testkit.Client(t, clientgoscheme.Scheme)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "replica-", Labels: map[string]string{broker.GroupLabel: "g", broker.TypeLabel: "t"}}}
	if err := api.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: "restore"}}
	if err := api.Create(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	token := func(audience string) string {
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}}}
		if err := api.SubResource("token").Create(t.Context(), account, request); err != nil {
			t.Fatal(err)
		}
		return request.Status.Token
	}
	identify := broker.Identify(api)
	if scope, err := identify(t.Context(), token(broker.Audience)); err != nil || scope != (broker.Scope{Group: "g", Type: "t"}) {
		t.Errorf("scope = %+v, %v", scope, err)
	}
	for name, bad := range map[string]string{"of another audience": token("https://kubernetes.default.svc"), "made up": "a.b.c"} {
		if scope, err := identify(t.Context(), bad); err == nil {
			t.Errorf("a token %s was let in: %+v", name, scope)
		}
	}
}
