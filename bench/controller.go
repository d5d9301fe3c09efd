package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/berth-dev/berth/process"
)

// controller is a running `berth controller`. What it did is read from its own
// metrics, and what it takes from /proc.
type controller struct {
	process *process.Process
	address string // of its metrics
	began   time.Time
}

// startController returns once its metrics answer. When it ends by itself, so
// does the world.
func (w *world) startController(ctx context.Context, args ...string) (*controller, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(w.dir, "controller.log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	defer log.Close()
	c := &controller{address: address, began: time.Now()}
	c.process, err = process.Start(process.Spec{
		Path: w.bench.program, Dir: w.dir, Log: log,
		Args: append([]string{"controller", "--kubeconfig=" + w.kubeconfig(), "--no-leader-elect", "--metrics-address=" + address, "--health-address=0"}, args...),
	})
	if err != nil {
		return nil, err
	}
	stopped := context.AfterFunc(ctx, func() { _ = c.process.Stop(0) })
	go func() {
		<-c.process.Done()
		if err := c.process.Err(); err != nil && stopped() {
			w.fail(fmt.Errorf("the controller ended: %w\n%s", err, tail(path)))
		}
	}()
	limited, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return c, until(limited, func() (bool, error) {
		_, err := c.metrics(limited)
		return err == nil, nil // it is not listening yet
	})
}

// stop asks the controller to end, as a cluster does.
func (c *controller) stop() error { return c.process.Stop(15 * time.Second) }

func tail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return string(text[max(0, len(text)-2000):])
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}

// metrics is one reading of what the controller counted since its start.
type metrics map[string]*dto.MetricFamily

func (c *controller) metrics(ctx context.Context) (metrics, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.address+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("reading metrics: %s", response.Status)
	}
	return parseMetrics(response.Body)
}

func parseMetrics(text io.Reader) (metrics, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return nil, fmt.Errorf("parsing metrics: %w", err)
	}
	return families, nil
}

// sum adds up every series of name whose labels satisfy chosen; of a histogram
// it adds the counts.
func (m metrics) sum(name string, chosen func(labels map[string]string) bool) float64 {
	total := 0.0
	for _, series := range m[name].GetMetric() {
		labels := map[string]string{}
		for _, l := range series.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		if chosen(labels) {
			total += series.GetCounter().GetValue() + series.GetGauge().GetValue() + float64(series.GetHistogram().GetSampleCount())
		}
	}
	return total
}

// writes counts requests to the API server that may change something, events included.
func (m metrics) writes() float64 {
	return m.sum("rest_client_requests_total", func(l map[string]string) bool { return l["method"] != http.MethodGet })
}

func (m metrics) reads() float64 {
	return m.sum("rest_client_requests_total", func(l map[string]string) bool { return l["method"] == http.MethodGet })
}

// steps counts how often the step of condition ran for claims.
func (m metrics) steps(condition string) float64 {
	return m.sum("berth_step_duration_seconds", func(l map[string]string) bool {
		return l["kind"] == "DatabaseClaim" && l["condition"] == condition
	})
}

// failures counts passes over claims that ended in an error.
func (m metrics) failures() float64 {
	return m.sum("controller_runtime_reconcile_total", func(l map[string]string) bool {
		return l["controller"] == "databaseclaim" && l["result"] == "error"
	})
}

// idle reports that no claim waits for a worker or has one.
func (m metrics) idle() bool {
	return m.sum("workqueue_depth", func(l map[string]string) bool { return l["name"] == "databaseclaim" }) == 0 &&
		m.sum("controller_runtime_active_workers", func(l map[string]string) bool { return l["controller"] == "databaseclaim" }) == 0
}

// quiet returns the count of writes once it has stood still for 3 s: events
// are sent beside the work.
func (c *controller) quiet(ctx context.Context) (float64, error) {
	const still = 3 * time.Second
	last, since := -1.0, time.Now()
	err := until(ctx, func() (bool, error) {
		m, err := c.metrics(ctx)
		if err != nil {
			return false, err
		}
		if n := m.writes(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) >= still, nil
	})
	return last, err
}

// memoryOf is the resident memory of a process, now and at its peak, in bytes.
func memoryOf(pid int) (now, peak float64, err error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, 0, fmt.Errorf("reading memory: %w", err)
	}
	found := 0
	for line := range strings.Lines(string(text)) {
		var kB float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kB); n == 1 {
			now, found = kB*1024, found+1
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %f kB", &kB); n == 1 {
			peak, found = kB*1024, found+1
		}
	}
	if found != 2 {
		return 0, 0, errors.New("reading memory: /proc tells neither VmRSS nor VmHWM")
	}
	return now, peak, nil
}
