package step_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/step"
)

func TestMetricsCountTransitionsAndDeadlines(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	step.Register(registry)
	out := step.Wait(0, "Starting", "It starts.")
	runs := 0
	r := newRig(t, do("First", func(context.Context, *claim) step.Outcome { runs++; return out }).Within(time.Minute))
	r.Plan.Kind = t.Name()
	r.mustPass()
	r.mustPass()
	r.clock.SetTime(start.Add(time.Hour))
	r.mustPass()
	r.mustPass()
	out = step.Done()
	r.mustPass()

	want := map[string]float64{
		"berth_condition_transitions_total First False Starting": 1,
		"berth_condition_transitions_total Ready False Starting": 1,
		"berth_condition_transitions_total First True First":     1,
		"berth_condition_transitions_total Ready True Ready":     1,
		"berth_step_overdue_total First":                         1,
		"berth_step_duration_seconds First":                      float64(runs),
	}
	if diff := cmp.Diff(want, gather(t, registry, t.Name())); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// gather reads the counters, and the counts of histograms, of one kind.
func gather(t *testing.T, registry *prometheus.Registry, kind string) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["kind"] != kind {
				continue
			}
			name := strings.Join([]string{family.GetName(), labels["condition"], labels["status"], labels["reason"]}, " ")
			found[strings.TrimSpace(name)] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return found
}
