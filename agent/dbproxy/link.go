package dbproxy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/mount"
	"github.com/berth-dev/berth/switchboard/wire"
)

const (
	firstCall, lastCall = 100 * time.Millisecond, 30 * time.Second
	callLimit           = 5 * time.Second // of a dial, a handshake, a report
)

// link is the stream to the switchboard. Whatever becomes of it, clients are
// served: it only reports, and passes on what it is told. A nil link is none.
type link struct {
	o          Options
	log        *slog.Logger
	directives chan wire.Directive // for the proxy's loop
	greeted    chan struct{}       // closed when the first call was answered, or was not
	drained    chan struct{}       // closed when nobody takes directives any more
	left       chan struct{}       // closed when the switchboard knows that this proxy ends
	greet      sync.Once
	connected  prometheus.Gauge
	failures   prometheus.Counter

	mu         sync.Mutex
	usage      wire.Usage
	changes    int // of what pgbouncer uses, so far
	generation uint64
	online     bool
	reports    chan wire.Report
}

func newLink(o Options, log *slog.Logger, registry *prometheus.Registry) *link {
	if o.Switchboard == "" {
		return nil
	}
	l := &link{
		o: o, log: log, directives: make(chan wire.Directive), greeted: make(chan struct{}), drained: make(chan struct{}), left: make(chan struct{}),
		reports: make(chan wire.Report, 32),
		connected: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "berth_dbproxy", Name: "switchboard_connected",
			Help: "1 while the switchboard knows of this proxy."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Namespace: "berth_dbproxy", Name: "switchboard_failures_total",
			Help: "Calls to the switchboard that failed, and streams that broke."}),
	}
	registry.MustRegister(l.connected, l.failures)
	return l
}

// run keeps the stream until ctx ends.
func (l *link) run(ctx context.Context) {
	again := backoff{first: firstCall, last: lastCall}
	for ctx.Err() == nil {
		began := time.Now()
		err := l.call(ctx)
		l.reached(false)
		l.greet.Do(func() { close(l.greeted) })
		if ctx.Err() != nil {
			return
		}
		l.failures.Inc()
		if time.Since(began) > stable {
			again.reset()
		}
		again.again()
		l.log.Info("without the switchboard", "reason", err, "again in", again.wait)
		select {
		case <-ctx.Done():
		case <-again.due():
		}
		select { // after a change of the leader not all come at once
		case <-ctx.Done():
		case <-time.After(rand.N(again.wait/2 + 1)):
		}
	}
}

// call opens one stream and follows it to its end.
func (l *link) call(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	client, err := l.client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	silence := time.AfterFunc(wire.Silence, func() { stop(errSilent) })
	defer silence.Stop()
	answer, err := l.post(ctx, client, wire.Path, l.hello())
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, wire.MaxLine)
	var reporting sync.WaitGroup
	defer reporting.Wait()
	defer stop(nil)
	for lines.Scan() {
		silence.Reset(wire.Silence)
		var line wire.Line
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			return errors.New("reading the switchboard's stream: it is no JSON")
		}
		if line.Session != "" {
			l.trust(line.Authorities)
			l.reached(true)
			reporting.Go(func() { stop(l.tell(ctx, client, wire.Path+"/"+line.Session+"/reports")) })
		}
		if line.Directive != nil {
			l.pass(ctx, *line.Directive)
		}
		l.greet.Do(func() { close(l.greeted) })
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return fmt.Errorf("reading the switchboard's stream: %w", errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}

var errSilent = errors.New("reading the switchboard's stream: it has gone silent")

// pass hands a directive to the loop; a proxy that drains obeys none.
func (l *link) pass(ctx context.Context, d wire.Directive) {
	select {
	case l.directives <- d:
	case <-l.drained:
		l.answer(d, errors.New("the pod is ending"))
	case <-ctx.Done():
	}
}

// tell sends reports until ctx ends or one does not arrive.
func (l *link) tell(ctx context.Context, client *http.Client, path string) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case report := <-l.reports:
			limited, cancel := context.WithTimeout(ctx, callLimit)
			answer, err := l.post(limited, client, path, report)
			cancel()
			if err != nil {
				return err
			}
			_ = answer.Body.Close() // it has none
			if report.Leaving {
				close(l.left)
				return nil
			}
		}
	}
}

func (l *link) hello() wire.Hello {
	l.mu.Lock()
	defer l.mu.Unlock()
	return wire.Hello{Version: wire.Version, Claim: l.o.Claim, Revision: l.o.Revision, Usage: l.usage, Generation: l.generation}
}

// report never waits. What is dropped is said again by the next hello, or asked
// for again by the switchboard.
func (l *link) report(r wire.Report) {
	select {
	case l.reports <- r:
	default:
	}
}

func (l *link) answer(d wire.Directive, err error) {
	outcome := wire.Outcome{Generation: d.Generation, Verb: d.Verb}
	if err != nil {
		outcome.Refusal = err.Error()
	}
	l.mu.Lock()
	usage := l.usage
	l.mu.Unlock()
	l.report(wire.Report{Usage: usage, Outcome: &outcome})
}

// changing is called when pgbouncer begins to use something else.
func (l *link) changing() (change int) {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes++
	return l.changes
}

// uses means: every connection is of c. It says nothing when there was another
// change since.
func (l *link) uses(change int, c mount.Credential) {
	if l == nil {
		return
	}
	usage := wire.Usage{Login: c.User, Server: wire.Target{Host: c.Host, Port: c.Port, Database: c.Database}.Server()}
	l.mu.Lock()
	defer l.mu.Unlock()
	if change == l.changes && usage != l.usage {
		l.usage = usage
		l.report(wire.Report{Usage: usage})
	}
}

func (l *link) sees(generation uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation = generation
}

func (l *link) orders() <-chan wire.Directive {
	if l == nil {
		return nil
	}
	return l.directives
}

// drain refuses all directives from now on.
func (l *link) drain() {
	if l != nil {
		close(l.drained)
	}
}

func (l *link) reached(online bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.online = online
	l.connected.Set(one(online))
}

// leave tells the end, and returns once that has arrived, or after a second.
func (l *link) leave() {
	l.mu.Lock()
	online := l.online
	l.mu.Unlock()
	if !online {
		return
	}
	l.report(wire.Report{Leaving: true})
	select {
	case <-l.left:
	case <-time.After(time.Second):
	}
}

func (l *link) trouble(text string) {
	if l != nil {
		l.report(wire.Report{Trouble: text[:min(len(text), 300)]})
	}
}
