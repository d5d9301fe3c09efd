package dbproxy_test

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/switchboard/wire"
)

// desk is the other end of one proxy's stream: it says what the test says, and
// passes on what the proxy reports.
type desk struct {
	*httptest.Server
	say   chan wire.Directive
	heard chan wire.Outcome
	first *wire.Directive // said before anything else
	token string          // file of it
}

func newDesk(t testing.TB, first *wire.Directive) *desk {
	t.Helper()
	d := &desk{say: make(chan wire.Directive), heard: make(chan wire.Outcome, 64), first: first, token: filepath.Join(testkit.OpenDir(t), "token")}
	must(t, os.WriteFile(d.token, []byte("some-token\n"), 0o644))
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.Path, d.stream)
	mux.HandleFunc("POST "+wire.Path+"/{session}/reports", d.report)
	d.Server = httptest.NewUnstartedServer(mux)
	d.EnableHTTP2 = true
	d.StartTLS()
	t.Cleanup(func() { d.CloseClientConnections(); d.Close() })
	return d
}

func (d *desk) flags() []string {
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.Certificate().Raw})
	return []string{"--claim", "orders", "--switchboard", d.Listener.Addr().String(), "--switchboard-ca=" + string(authority), "--switchboard-token", d.token}
}

func (d *desk) stream(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer some-token" {
		http.Error(w, "who is this?", http.StatusUnauthorized)
		return
	}
	lines, flush := json.NewEncoder(w), http.NewResponseController(w)
	_ = lines.Encode(wire.Line{Session: "one", Directive: d.first})
	for flush.Flush() == nil {
		select {
		case <-r.Context().Done():
			return
		case directive := <-d.say:
			_ = lines.Encode(wire.Line{Directive: &directive})
		}
	}
}

func (d *desk) report(w http.ResponseWriter, r *http.Request) {
	var told wire.Report
	if json.NewDecoder(r.Body).Decode(&told) == nil && told.Outcome != nil {
		d.heard <- *told.Outcome
	}
	w.WriteHeader(http.StatusNoContent)
}

// tell says a directive and returns the refusal; empty when it was done.
func (d *desk) tell(t testing.TB, directive wire.Directive) string {
	t.Helper()
	d.say <- directive
	return d.hear(t, directive.Verb, directive.Generation)
}

func (d *desk) hear(t testing.TB, verb wire.Verb, generation uint64) string {
	t.Helper()
	select {
	case outcome := <-d.heard:
		if outcome.Verb != verb || outcome.Generation != generation {
			t.Fatalf("it answers %v, not %s of %d", outcome, verb, generation)
		}
		return outcome.Refusal
	case <-time.After(20 * time.Second):
		t.Fatalf("no answer to %s of %d", verb, generation)
	}
	return ""
}

func ask(verb wire.Verb, generation uint64) wire.Directive {
	return wire.Directive{Verb: verb, Generation: generation, Budget: 30 * time.Second}
}

func toward(d wire.Directive, t postgres.Target) wire.Directive {
	d.Target = &wire.Target{Host: t.Host, Port: t.Port, Database: t.Database, User: t.User, Password: t.Password, SSLMode: t.SSLMode}
	return d
}

func TestDirectivesThatAreRefused(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	here := c.open(t, "_a")
	c.publish(t, here)
	nowhere := here
	nowhere.Password = "wrong-" + here.Password
	d := newDesk(t, nil)
	a := c.ready(t, d.flags()...)
	for n, s := range []struct {
		directive wire.Directive
		refusal   string
	}{
		{ask(wire.Resume, 5), "generation 5 was not begun here"},
		{ask(wire.Abort, 6), ""},
		{ask(wire.Hold, 7), ""},
		{ask(wire.Hold, 6), "generation 6 is lower than 7"},
		{toward(ask(wire.Retarget, 7), here), "clients are not paused"},
		{ask(wire.Pause, 7), "generation 7 is over here"},
		{toward(ask(wire.Hold, 8), nowhere), "trying the target"},
		{ask(wire.Pause, 9), ""},
		{ask(wire.Pause, 9), ""}, // said again after a stream broke
		{ask(wire.Retarget, 9), "there is no target"},
		{ask(wire.Resume, 9), "generation 9 is over here"},
		{ask(wire.Pause, 10), ""},
		{ask(wire.Hold, 11), ""}, // a newer operation ends the one before
		{ask(wire.Abort, 10), "generation 10 is lower than 11"},
		{ask(wire.Abort, 11), ""},
		{ask(wire.Abort, 11), ""},
		{ask("dance", 12), "generation 12 was not begun here"},
		{toward(ask(wire.Follow, 11), here), "is not to be followed here"},
	} {
		got := d.tell(t, s.directive)
		if (s.refusal == "") != (got == "") || !strings.Contains(got, s.refusal) {
			t.Errorf("%d: %v is answered %q, want %q", n, s.directive, got, s.refusal)
		}
		if s.directive.Verb == wire.Pause && got == "" {
			continue // clients wait
		}
		if got := a.ask(t, "SELECT session_user::text"); got != here.User {
			t.Fatalf("%d: clients act as %s", n, got)
		}
	}
}

// A new pod's claim is paused: the proxy serves nobody before the end of that.
func TestAProxyThatStartsInAPauseServesNobody(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	other := newTenantNamed(t, testkit.Postgres(t, 17), c.owner, c.database)
	old, moved := c.open(t, "_a"), other.open(t, "_a")
	c.passwords = append(c.passwords, other.passwords...)
	c.publish(t, old)
	pause := ask(wire.Pause, 3)
	d := newDesk(t, &pause)
	a := c.launch(t, d.flags()...)
	if refusal := d.hear(t, wire.Pause, 3); refusal != "" {
		t.Fatal(refusal)
	}
	<-time.After(500 * time.Millisecond) // several times what a start takes
	if a.child() != 0 {
		t.Error("somebody could be served in the pause")
	}
	if refusal := d.tell(t, toward(ask(wire.Retarget, 3), moved)); refusal != "" {
		t.Fatal(refusal)
	}
	if refusal := d.tell(t, ask(wire.Resume, 3)); refusal != "" {
		t.Fatal(refusal)
	}
	a.awaitReady(t)
	version := func() string { return a.ask(t, "SHOW server_version_num")[:2] }
	if got := version(); got != "17" {
		t.Errorf("it serves version %s, not where its claim is", got)
	}
	c.publish(t, old) // a kubelet that knows nothing new
	<-time.After(300 * time.Millisecond)
	if got := version(); got != "17" {
		t.Errorf("the Secret of before has it serve version %s", got)
	}
	c.publish(t, c.open(t, "_b"))
	eventually(t, "a Secret that has changed counts", func() bool { return version() == "15" })
}

func TestPgbouncerEndsInAPause(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	d := newDesk(t, nil)
	a := c.ready(t, d.flags()...)
	if refusal := d.tell(t, ask(wire.Pause, 1)); refusal != "" {
		t.Fatal(refusal)
	}
	must(t, syscall.Kill(a.child(), syscall.SIGKILL))
	eventually(t, "its end is seen", func() bool { return a.metric("berth_dbproxy_pgbouncer_restarts_total") == 1 })
	<-time.After(500 * time.Millisecond) // several times what a restart takes
	if a.child() != 0 {
		t.Error("it is started in the pause, and would serve")
	}
	if refusal := d.tell(t, ask(wire.Resume, 1)); refusal != "" {
		t.Fatal(refusal)
	}
	a.awaitReady(t)
	if got := a.ask(t, "SELECT 1::text"); got != "1" {
		t.Errorf("it answers %s", got)
	}
}

func TestANewCredentialWaitsForTheEndOfAnOperation(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	first := c.open(t, "_a")
	c.publish(t, first)
	d := newDesk(t, nil)
	a := c.ready(t, d.flags()...)
	if refusal := d.tell(t, ask(wire.Hold, 1)); refusal != "" {
		t.Fatal(refusal)
	}
	held := func() bool {
		ini, err := os.ReadFile(filepath.Join(a.state, "pgbouncer", "pgbouncer.ini"))
		must(t, err)
		return strings.Contains(string(ini), " pool_size=1\n")
	}
	if !held() {
		t.Error("more than one login could be in flight")
	}
	next := c.open(t, "_b")
	c.publish(t, next)
	<-time.After(300 * time.Millisecond)
	if got := a.ask(t, "SELECT session_user::text"); got != first.User {
		t.Errorf("it goes to %s while it is held", got)
	}
	if refusal := d.tell(t, ask(wire.Abort, 1)); refusal != "" {
		t.Fatal(refusal)
	}
	a.awaitLogin(t, next.User)
	if held() {
		t.Error("the pool is held on")
	}
}

// A transaction that does not end: the pause gives up, and everybody goes on.
func TestAPauseThatIsNotReachedIsGivenUp(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	d := newDesk(t, nil)
	a := c.ready(t, d.flags()...)
	tx, err := a.connect(t).Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), insert)
	must(t, err)
	pause := ask(wire.Pause, 1)
	pause.Budget = 400 * time.Millisecond
	d.say <- pause
	if refusal := d.hear(t, wire.Expired, 1); !strings.Contains(refusal, "budget") {
		t.Errorf("it says %q", refusal)
	}
	if got := a.ask(t, "SELECT 1::text"); got != "1" {
		t.Errorf("others are answered %s", got)
	}
	must(t, tx.Commit(t.Context()))
}

func TestADrainingProxyObeysNothing(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	d := newDesk(t, nil)
	a := c.ready(t, d.flags()...)
	conn := a.connect(t)
	one(t, conn, "SELECT 1::text")
	if refusal := d.tell(t, ask(wire.Pause, 1)); refusal != "" {
		t.Fatal(refusal)
	}
	stays := make(chan error, 1)
	go func() { // waits in the pause, and is there for the drain
		_, err := conn.Exec(t.Context(), "SELECT pg_sleep(1)")
		stays <- errors.Join(err, conn.Close(t.Context()))
	}()
	eventually(t, "a client waits", func() bool { return a.metric("berth_dbproxy_waiting") == 1 })
	a.signal(t, syscall.SIGTERM)
	eventually(t, "it drains", func() bool { return a.metric("berth_dbproxy_draining") == 1 })
	if refusal := d.tell(t, ask(wire.Pause, 2)); !strings.Contains(refusal, "the pod is ending") {
		t.Errorf("it answers %q", refusal)
	}
	must(t, <-stays)
	if code := a.exitCode(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Without the switchboard, and without a token, clients are served all the same.
func TestTheSwitchboardIsNotNeeded(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	d := newDesk(t, nil)
	must(t, os.Remove(d.token))
	a := c.ready(t, d.flags()...)
	if got := a.ask(t, "SELECT 1::text"); got != "1" {
		t.Errorf("it answers %s", got)
	}
	if a.metric("berth_dbproxy_switchboard_connected") != 0 || a.metric("berth_dbproxy_switchboard_failures_total") == 0 {
		t.Error("the metrics do not say that the switchboard is missing")
	}
	must(t, os.WriteFile(d.token, []byte("some-token"), 0o644))
	eventually(t, "the token is read anew", func() bool { return a.metric("berth_dbproxy_switchboard_connected") == 1 })
	d.CloseClientConnections()
	eventually(t, "it comes again", func() bool {
		return a.metric("berth_dbproxy_switchboard_failures_total") > 1 && a.metric("berth_dbproxy_switchboard_connected") == 1
	})
}
