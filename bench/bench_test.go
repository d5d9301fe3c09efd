package main

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/postgres"
)

func TestRenderMakesOneTable(t *testing.T) {
	t.Parallel()
	got := render([]row{
		{what: "speed", berth: "9.5/s", raw: "10/s", ratio: "0.95", figures: []float64{0.91, 0.97, 0.953}, must: "ratio >= 0.85", reached: true},
		{what: "writes", berth: "6", figures: []float64{6}, must: "<= 5"},
	})
	want := `
| what   | berth | raw  | ratio | runs | median | min  | max  | must reach    | reached |
|--------|-------|------|-------|------|--------|------|------|---------------|---------|
| speed  | 9.5/s | 10/s | 0.95  | 3    | 0.953  | 0.91 | 0.97 | ratio >= 0.85 | yes     |
| writes | 6     | -    | -     | 1    | 6      | 6    | 6    | <= 5          | no      |
`
	if diff := cmp.Diff(want[1:], got); diff != "" {
		t.Error(diff)
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for name, tc := range map[string]struct {
		of   []float64
		p    float64
		want float64
	}{
		"the median of three is the middle one": {[]float64{9, 1, 5}, 50, 5},
		"the median of four is the lower one":   {[]float64{4, 3, 2, 1}, 50, 2},
		"p99 of a hundred leaves out the worst": {hundred, 99, 99},
		"0 is the least":                        {hundred, 0, 1},
		"100 is the most":                       {hundred, 100, 100},
		"one figure is all of them":             {[]float64{7}, 99, 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := percentile(tc.of, tc.p); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v", got)
	}
}

func TestRewriteReplacesOnlyTheTable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(file, []byte("before\n"+tableBegins+"old\n"+tableEnds+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := rewrite(file, "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("before\n"+tableBegins+"\nnew\n\n"+tableEnds+"after\n", string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestTheDocumentHasAPlaceForTheTable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "docs", "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), tableBegins) != 1 || strings.Count(string(text), tableEnds) != 1 {
		t.Error("docs/benchmarks.md must have each marker of the table once")
	}
	for _, e := range experiments {
		if !strings.Contains(string(text), "**"+e.name+"**") {
			t.Errorf("docs/benchmarks.md does not say what %s measures", e.name)
		}
	}
}

func TestRewriteRefusesAFileWithoutMarkers(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(file, []byte("mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(file, "new\n"); err == nil {
		t.Error("it was rewritten")
	}
}

func TestParseRefusesADocumentOfHalfATable(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"tiny sizes": {"-quick", "-markdown=page.md"},
		"one row":    {"-only=claims", "-markdown=page.md"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := parse(args); err == nil {
				t.Error("it was accepted")
			}
		})
	}
}

func TestReadStatementsCountsWhatBerthSent(t *testing.T) {
	t.Parallel()
	log := `2026-01-02 03:04:05.678 UTC bench@postgres LOG:  statement: SELECT pg_reload_conf()
2026-01-02 03:04:05.679 UTC @ LOG:  received SIGHUP, reloading configuration files
2026-01-02 03:04:06.000 UTC berth@postgres LOG:  execute <unnamed>: 
			SELECT 'database', datname::text
			WHERE description LIKE 'berth: %'
			UNION ALL
			SELECT 'role'
2026-01-02 03:04:06.001 UTC berth@bench_orders LOG:  statement: SELECT 1
2026-01-02 03:04:06.002 UTC berth@postgres LOG:  execute <unnamed>: SELECT 2
2026-01-02 03:04:06.002 UTC berth@postgres DETAIL:  parameters: $1 = 'x'
`
	if diff := cmp.Diff(statements{claims: 2, sweeper: 1}, readStatements(log), cmp.AllowUnexported(statements{})); diff != "" {
		t.Error(diff)
	}
}

func TestAClientSeesASecretLate(t *testing.T) {
	t.Parallel()
	start := time.Now()
	h := &history{}
	h.add(edition{start, postgres.Target{User: "a"}})
	h.add(edition{start.Add(10 * time.Second), postgres.Target{User: "b"}})
	for name, tc := range map[string]struct {
		after, lag time.Duration
		want       string
	}{
		"knows the first at once":           {0, time.Second, "a"},
		"keeps the old one while it is due": {10500 * time.Millisecond, time.Second, "a"},
		"takes the new one after its lag":   {11 * time.Second, time.Second, "b"},
		"takes it at once without a lag":    {10 * time.Second, 0, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := h.at(start.Add(tc.after), tc.lag).User; got != tc.want {
				t.Errorf("logs in as %s, want %s", got, tc.want)
			}
		})
	}
}

func TestMetricsAddUp(t *testing.T) {
	t.Parallel()
	m, err := parseMetrics(strings.NewReader(`# TYPE rest_client_requests_total counter
rest_client_requests_total{code="200",method="GET"} 7
rest_client_requests_total{code="201",method="POST"} 2
rest_client_requests_total{code="409",method="PATCH"} 1
# TYPE berth_step_duration_seconds histogram
berth_step_duration_seconds_bucket{kind="DatabaseClaim",condition="Admitted",le="+Inf"} 4
berth_step_duration_seconds_sum{kind="DatabaseClaim",condition="Admitted"} 0.5
berth_step_duration_seconds_count{kind="DatabaseClaim",condition="Admitted"} 4
# TYPE workqueue_depth gauge
workqueue_depth{name="databaseclaim",priority="-100"} 1
`))
	if err != nil {
		t.Fatal(err)
	}
	if got := []float64{m.writes(), m.reads(), m.steps("Admitted"), m.steps("Ready")}; !cmp.Equal(got, []float64{3, 7, 4, 0}) {
		t.Errorf("writes, reads, steps: %v", got)
	}
	if m.idle() {
		t.Error("a claim waits, and the controller is called idle")
	}
}

func TestReadsWhatPgbenchSays(t *testing.T) {
	t.Parallel()
	rate, err := parseRate("number of transactions actually processed: 9\nlatency average = 0.614 ms\ntps = 13027.123456 (without initial connection time)\n")
	if err != nil || rate != 13027.123456 {
		t.Errorf("rate %v, %v", rate, err)
	}
	if _, err := parseRate("pgbench: error: connection refused\n"); err == nil {
		t.Error("a rate was read where there is none")
	}
	p50, err := parseLatency("0 1 250 0 1763640000 1\n0 2 9000 0 1763640000 2\n0 3 130 0 1763640000 3\n")
	if err != nil || p50 != 0.25 {
		t.Errorf("p50 %v, %v", p50, err)
	}
	for _, log := range []string{"", "0 1\n", "0 1 skipped 0 1763640000 1\n"} {
		if _, err := parseLatency(log); err == nil {
			t.Errorf("a latency was read from %q", log)
		}
	}
}

func TestSidesTakeTurns(t *testing.T) {
	t.Parallel()
	for turn, want := range map[int]string{0: "dbproxy hand ", 1: "hand dbproxy "} {
		order := ""
		a, b, err := sides(turn, func(to postgres.Target) (float64, error) {
			order += to.Host + " "
			return float64(len(to.Host)), nil
		}, postgres.Target{Host: "dbproxy"}, postgres.Target{Host: "hand"})
		if err != nil || a != 7 || b != 4 || order != want {
			t.Errorf("turn %d: %q, %v and %v, %v", turn, order, a, b, err)
		}
	}
}

// built has the programs made once: another test may be running them.
var built = sync.OnceValues(func() (bench, error) {
	b := bench{root: "..", dir: os.TempDir(), size: quick, say: func(string, ...any) {}}
	return b, b.build(context.Background())
})

func quickBench(t *testing.T) *bench {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	b.say = t.Logf
	return &b
}

// The rows of the proxy in tiny sizes, on a real pgbouncer and PostgreSQL.
func TestProxyRowsOnRealServers(t *testing.T) {
	t.Parallel()
	b := quickBench(t)
	for name, measure := range map[string]func(context.Context, *bench) (row, error){
		"proxyrate": measureProxyRate, "proxyrotation": measureProxyRotation, "proxymemory": measureProxyMemory,
	} {
		r, err := measure(t.Context(), b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(r.figures) != quick.proxyTurns || r.figures[0] <= 0 {
			t.Errorf("%s: measured %v", name, r.figures)
		}
		if name == "proxyrotation" && !strings.HasPrefix(r.berth, "0 of ") {
			t.Errorf("clients noticed: %s", r.berth)
		}
	}
}

func TestClaimsRaceARealServer(t *testing.T) {
	t.Parallel()
	b := quickBench(t)
	r, err := measureClaims(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.figures) != quick.claimRuns || r.figures[0] <= 0 {
		t.Errorf("measured the ratios %v", r.figures)
	}
}
