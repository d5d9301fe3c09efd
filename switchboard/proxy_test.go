package switchboard_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/switchboard"
	"github.com/berth-dev/berth/switchboard/boardtest"
	"github.com/berth-dev/berth/switchboard/wire"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const password = "pa55word-of-the-target"

// target is where operations move proxies; nobody calls it here.
var target = postgres.Target{Host: "new", Port: 5432, Database: "orders", User: "orders_a", Password: password}

// page collects a log.
type page struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *page) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(text)
}

func (p *page) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// serve is a switchboard whose log, when the test ends, must hold no password
// and no token.
func serve(t *testing.T) *boardtest.Exchange {
	t.Helper()
	log := &page{}
	t.Cleanup(func() {
		if strings.Contains(log.String(), password) || strings.Contains(log.String(), "eyJ") {
			t.Errorf("the log holds a secret:\n%s", log)
		}
	})
	return boardtest.Serve(t, nil, slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// proxy speaks the contract as a dbproxy does, and answers as the test says.
type proxy struct {
	t       *testing.T
	e       *boardtest.Exchange
	token   string
	client  *http.Client
	session string
	hangUp  context.CancelFunc
	got     chan wire.Directive
	answer  func(wire.Directive) (refusal string, silent bool)
}

func obedient(wire.Directive) (string, bool) { return "", false }
func silent(wire.Directive) (string, bool)   { return "", true }

func newClient(t *testing.T, e *boardtest.Exchange) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(e.Authorities()))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func post(ctx context.Context, client *http.Client, url, token string, body any) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return client.Do(request)
}

// join lets the proxy of a new pod in.
func join(t *testing.T, e *boardtest.Exchange, claim switchboard.Claim, pod string, answer func(wire.Directive) (string, bool)) *proxy {
	t.Helper()
	p := &proxy{t: t, e: e, answer: answer, client: newClient(t, e)}
	p.token = e.Token(claim.Namespace, e.Pod(claim.Namespace, pod, claim.Name, claim.Name), wire.Audience)
	p.call(wire.Hello{Version: wire.Version, Claim: claim.Name, Usage: wire.Usage{Login: "orders_a", Server: "old:5432/orders"}})
	return p
}

// call opens a stream and returns once the switchboard has said its first line.
func (p *proxy) call(hello wire.Hello) {
	p.t.Helper()
	ctx, hangUp := context.WithCancel(context.Background())
	answer, err := post(ctx, p.client, "https://"+p.e.Address+wire.Path, p.token, hello)
	if err != nil {
		hangUp()
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { hangUp(); _ = answer.Body.Close() })
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		p.t.Fatalf("the switchboard answers %d %s", answer.StatusCode, text)
	}
	p.hangUp, p.got = hangUp, make(chan wire.Directive, 256)
	lines := json.NewDecoder(answer.Body)
	var first wire.Line
	if err := lines.Decode(&first); err != nil {
		p.t.Fatal(err)
	}
	p.session = first.Session
	go p.follow(ctx, lines, first, p.got)
}

func (p *proxy) follow(ctx context.Context, lines *json.Decoder, line wire.Line, got chan<- wire.Directive) {
	for {
		if d := line.Directive; d != nil {
			if refusal, silent := p.answer(*d); !silent {
				p.report(ctx, wire.Report{Outcome: &wire.Outcome{Generation: d.Generation, Verb: d.Verb, Refusal: refusal}})
			}
			got <- *d
		}
		line = wire.Line{}
		if lines.Decode(&line) != nil {
			close(got)
			return
		}
	}
}

func (p *proxy) report(ctx context.Context, r wire.Report) (status int) {
	answer, err := post(ctx, p.client, "https://"+p.e.Address+wire.Path+"/"+p.session+"/reports", p.token, r)
	if err != nil {
		return 0
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

// expect waits for the next directive, which has to be verb.
func (p *proxy) expect(verb wire.Verb) wire.Directive {
	p.t.Helper()
	select {
	case d, open := <-p.got:
		if !open || d.Verb != verb {
			p.t.Fatalf("it is told %q, want %q", d.Verb, verb)
		}
		return d
	case <-time.After(10 * time.Second):
		p.t.Fatalf("it is not told to %s", verb)
	}
	return wire.Directive{}
}

func order(e *boardtest.Exchange, claims ...switchboard.Claim) switchboard.Order {
	o := switchboard.Order{Generation: e.Generation(claims...) + 1, Claims: claims, Budget: 10 * time.Second, Targets: map[switchboard.Claim]postgres.Target{}}
	for _, c := range claims {
		o.Targets[c] = target
	}
	return o
}
