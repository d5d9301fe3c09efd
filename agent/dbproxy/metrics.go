package dbproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/berth-dev/berth/mount"
	"github.com/berth-dev/berth/postgres"
)

// figures are what the outside may know: no secret among it.
type figures struct {
	o                Options
	registry         *prometheus.Registry
	flips            *prometheus.CounterVec
	flipSeconds      prometheus.Histogram
	credentialErrors *prometheus.CounterVec
	restarts         prometheus.Counter

	mu       sync.Mutex
	database string // pgbouncer's name of it
	login    string // empty until there is one
	why      string // not ready; empty when it is
	draining bool
}

func newFigures(o Options) *figures {
	const namespace = "berth_dbproxy"
	f := &figures{
		o: o, registry: prometheus.NewRegistry(), why: "waiting for a credential",
		flips: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "flips_total",
			Help: "Changes of the credential, by result: applied, refused (it does not work) or failed."}, []string{"result"}),
		flipSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: "flip_seconds",
			Help: "Time from a new credential until all new transactions use it.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 11)}),
		credentialErrors: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: "credential_errors_total",
			Help: "Credentials that could not be read or applied, by reason."}, []string{"reason"}),
		restarts: prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: "pgbouncer_restarts_total",
			Help: "How often pgbouncer ended by itself."}),
	}
	f.registry.MustRegister(f.flips, f.flipSeconds, f.credentialErrors, f.restarts, &gauges{f: f})
	return f
}

// serving means: pgbouncer answers, with these settings.
func (f *figures) serving(s settings) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.database, f.login, f.why = s.alias, s.credential.User, ""
}

// down means: pgbouncer does not answer.
func (f *figures) down(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.why = why
}

// waiting renews the reason of a proxy that is not ready.
func (f *figures) waiting(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.why != "" {
		f.why = why
	}
}

func (f *figures) drain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.draining, f.why = true, "draining"
}

func (f *figures) alias() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.database
}

func (f *figures) status() (login, why string, draining bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.login, f.why, f.draining
}

// serve listens for as long as stop is not called.
func (f *figures) serve() (stop func(), err error) {
	listener, err := net.Listen("tcp", f.o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(f.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", f.health)
	mux.HandleFunc("GET /credential", f.credential)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	var done sync.WaitGroup
	done.Go(func() { _ = server.Serve(listener) }) // it ends by Close
	return func() {
		_ = server.Close()
		done.Wait()
	}, nil
}

// health never asks the database: when that is down, a restart of this process
// would only make it worse.
func (f *figures) health(w http.ResponseWriter, r *http.Request) {
	if _, why, _ := f.status(); why != "" {
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	if err := probe(r.Context(), f.o.Listen); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ready")
}

// credential says which login all new transactions use.
func (f *figures) credential(w http.ResponseWriter, _ *http.Request) {
	login, _, _ := f.status()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"login": login}) // nobody is left to tell
}

// gauges are read when asked for.
type gauges struct{ f *figures }

var (
	loginInfo   = prometheus.NewDesc("berth_dbproxy_login_info", "The login that new transactions use.", []string{"login"}, nil)
	drainingNow = prometheus.NewDesc("berth_dbproxy_draining", "1 while clients are given time to finish.", nil, nil)
	clients     = prometheus.NewDesc("berth_dbproxy_clients", "Connected clients.", nil, nil)
	waiting     = prometheus.NewDesc("berth_dbproxy_waiting", "Clients that wait for a connection to the server.", nil, nil)
)

// Describe implements prometheus.Collector.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{loginInfo, drainingNow, clients, waiting} {
		out <- d
	}
}

// Collect leaves out what pgbouncer does not answer at the moment.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	login, _, draining := g.f.status()
	if draining {
		gauge(drainingNow, 1)
	} else {
		gauge(drainingNow, 0)
	}
	if login == "" {
		return
	}
	gauge(loginInfo, 1, login)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := g.f.o.dialConsole(ctx)
	if err != nil {
		return
	}
	defer c.close()
	if now, err := c.pools(ctx, g.f.alias()); err == nil {
		gauge(clients, float64(now.clients))
		gauge(waiting, float64(now.waiting))
	}
}

// reason is one word of a bounded set, for a metric.
func reason(err error) string {
	var fault *postgres.Fault
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.Is(err, mount.ErrMissing):
		return "Missing"
	case errors.Is(err, mount.ErrMalformed):
		return "Malformed"
	case errors.Is(err, errUnwritable):
		return "Unwritable"
	case errors.Is(err, errNotTaken):
		return "NotTaken"
	case errors.Is(err, errPortTaken):
		return "PortTaken"
	case errors.As(err, &fault):
		return fault.Reason
	case errors.As(err, &path), errors.As(err, &link):
		return "StateFolder"
	}
	return "Pgbouncer"
}
