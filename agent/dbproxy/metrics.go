package dbproxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
	restarts, hangs  prometheus.Counter

	mu        sync.Mutex
	database  string // pgbouncer's name of it
	login     string // empty until there is one
	since     time.Time
	why       string // not ready; empty when it is
	draining  bool
	answering bool
	pools     *pools // nil: not known
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
			Help: "How often pgbouncer has ended before it was asked to."}),
		hangs: prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: "pgbouncer_hangs_total",
			Help: "How many of these ends were made because pgbouncer did not answer any more."}),
	}
	f.registry.MustRegister(f.flips, f.flipSeconds, f.credentialErrors, f.restarts, f.hangs, gauges{f})
	return f
}

// serving means: pgbouncer answers, with these settings.
func (f *figures) serving(s settings) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.login != s.credential.User {
		f.since = time.Now()
	}
	f.database, f.login, f.why, f.answering = s.alias, s.credential.User, "", true
}

// pulse is what a look at pgbouncer found.
func (f *figures) pulse(now *pools, answering bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pools, f.answering = now, answering
}

// down means: pgbouncer does not answer.
func (f *figures) down(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.why, f.pools, f.answering = why, nil, false
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

func (f *figures) status() (login, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.login, f.why
}

// serve answers until stop is called. Metrics have an address of their own:
// the whole cluster may read them, and the tenant is not to lose its database
// when something else in its pod has that port.
func (f *figures) serve(log *slog.Logger) (stop func(), err error) {
	own := http.NewServeMux()
	own.HandleFunc("GET /healthz", f.health)
	own.HandleFunc("GET /credential", f.credential)
	stopOwn, err := serveAt(f.o.HealthAddress, own)
	if err != nil {
		return nil, fmt.Errorf("listening for health: %w", err)
	}
	public := http.NewServeMux()
	// A page of two kilobytes is not worth the megabyte that a compressor takes.
	public.Handle("GET /metrics", promhttp.HandlerFor(f.registry, promhttp.HandlerOpts{DisableCompression: true}))
	stopPublic, err := serveAt(f.o.MetricsAddress, public)
	if err != nil {
		log.Warn("going on without metrics", "error", err)
		return stopOwn, nil
	}
	return func() { stopOwn(); stopPublic() }, nil
}

func serveAt(address string, handler http.Handler) (stop func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
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
	if _, why := f.status(); why != "" {
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
	login, _ := f.status()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"login": login}) // nobody is left to tell
}

// gauges show what was found last. However often they are read, pgbouncer is
// asked no more for it.
type gauges struct{ f *figures }

var (
	answering   = prometheus.NewDesc("berth_dbproxy_answering", "1 while pgbouncer answers.", nil, nil)
	loginSince  = prometheus.NewDesc("berth_dbproxy_login_timestamp_seconds", "Since when new transactions use the current login, in Unix time.", nil, nil)
	drainingNow = prometheus.NewDesc("berth_dbproxy_draining", "1 while clients are given time to finish.", nil, nil)
	clients     = prometheus.NewDesc("berth_dbproxy_clients", "Connected clients.", nil, nil)
	waiting     = prometheus.NewDesc("berth_dbproxy_waiting", "Clients that wait for a connection to the server.", nil, nil)
)

// Describe implements prometheus.Collector.
func (g gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{answering, loginSince, drainingNow, clients, waiting} {
		out <- d
	}
}

// Collect implements prometheus.Collector; it leaves out what is not known.
func (g gauges) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	gauge(answering, one(g.f.answering))
	gauge(drainingNow, one(g.f.draining))
	if !g.f.since.IsZero() {
		gauge(loginSince, float64(g.f.since.UnixMilli())/1000)
	}
	if now := g.f.pools; now != nil {
		gauge(clients, float64(now.clients))
		gauge(waiting, float64(now.waiting))
	}
}

func one(fact bool) float64 {
	if fact {
		return 1
	}
	return 0
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
