package dsnexec

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

type metrics struct {
	registry *prometheus.Registry
	runs     *prometheus.CounterVec
	applied  *prometheus.GaugeVec
	last     *prometheus.GaugeVec
	config   prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_dsnexec_runs_total", Help: "Runs of a config's commands, by how they ended.",
		}, []string{"config", "result"}),
		applied: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_dsnexec_applied", Help: "1 when what the sources hold now is applied, else 0.",
		}, []string{"config"}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_dsnexec_last_applied_timestamp_seconds", Help: "When a config was last applied.",
		}, []string{"config"}),
		config: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "berth_dsnexec_configuration_valid", Help: "1 when the configuration file is in use, 0 when it is missing or broken.",
		}),
	}
	m.registry.MustRegister(m.runs, m.applied, m.last, m.config)
	return m
}

// forget drops what is told of the configs so far, and keeps the counters.
func (m *metrics) forget() {
	m.applied.Reset()
	m.last.Reset()
}

// handler answers /healthz, which is about this process alone and asks no
// database, and lists there why a config is not applied.
func (r *runner) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		for _, line := range r.states() {
			fmt.Fprintln(w, line)
		}
	})
	return http.TimeoutHandler(mux, 5*time.Second, "")
}
