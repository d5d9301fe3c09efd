package cloud

import "github.com/prometheus/client_golang/prometheus"

var (
	calls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_sts_calls_total",
		Help: "AssumeRole calls, by outcome: ok, error, empty, short.",
	}, []string{"outcome"})
	handouts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_sts_handouts_total",
		Help: "Credentials handed out, by where they came from: cache, service.",
	}, []string{"from"})
)

// Register makes the brokers' metrics visible in registry.
func Register(registry prometheus.Registerer) { registry.MustRegister(calls, handouts) }
