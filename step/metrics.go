package step

import "github.com/prometheus/client_golang/prometheus"

var (
	transitions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_condition_transitions_total",
		Help: "Changes of a condition's status or reason.",
	}, []string{"kind", "condition", "status", "reason"})
	overdue = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_step_overdue_total",
		Help: "Times a condition stayed untrue past its deadline.",
	}, []string{"kind", "condition"})
	seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "berth_step_duration_seconds",
		Help:    "Time that one run of a step took.",
		Buckets: []float64{.0001, .001, .01, .1, 1, 10, 60},
	}, []string{"kind", "condition"})
)

// Register makes the kernel's metrics visible in registry.
func Register(registry prometheus.Registerer) {
	registry.MustRegister(transitions, overdue, seconds)
}
