// Package dsnexec runs commands each time a credential file changes: SQL,
// programs, or the writing of a file, as its configuration says.
//
// A config that fails is tried again and holds up no other. A password leaves
// the process only to the destination it is for: logs, errors and metrics hold
// none. It reads files and knows no Kubernetes.
package dsnexec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Options say what to run.
type Options struct {
	ConfigFile string
	Enable     []string      // configs to run though they are disabled
	Disable    []string      // configs not to run; wins over Enable
	Interval   time.Duration // between two looks at the files; zero is 1 s
	Listener   net.Listener  // for /healthz and /metrics; closed at the end
	Log        *slog.Logger
}

type runner struct {
	options Options
	metrics *metrics

	mu      sync.Mutex
	problem string // with the configuration file
	workers []*worker
}

// Run keeps every config applied until ctx ends, and then returns nil. It
// follows changes of the configuration file; while that is missing or broken,
// what it said last goes on. Only a failing listener is an error.
func Run(ctx context.Context, o Options) error {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	r := &runner{options: o, metrics: newMetrics()}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	server := &http.Server{Handler: r.handler(), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() {
		err := server.Serve(o.Listener)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		stop(err)
		served <- err
	}()
	r.follow(ctx)
	_ = server.Close() // what it serves is of no use once the work has ended
	if err := <-served; err != nil {
		return fmt.Errorf("serving %s: %w", o.Listener.Addr(), err)
	}
	return nil
}

// follow has the workers of the newest valid configuration run.
func (r *runner) follow(ctx context.Context) {
	var used []byte
	end := func() {}
	defer func() { end() }()
	tick := time.NewTicker(r.options.Interval)
	defer tick.Stop()
	for {
		text, configs, err := r.read()
		switch {
		case err != nil:
			r.complain(err)
		case used == nil || !bytes.Equal(text, used):
			end()
			used, end = text, r.start(ctx, configs)
		default:
			r.clear()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *runner) read() ([]byte, []Config, error) {
	text, err := snapshot{}.read(r.options.ConfigFile)
	if err != nil {
		return nil, nil, err
	}
	configs, err := ParseConfig(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", r.options.ConfigFile, err)
	}
	if configs, err = Choose(configs, r.options.Enable, r.options.Disable); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", r.options.ConfigFile, err)
	}
	return text, configs, nil
}

// start begins a worker for each config and returns what ends them all.
func (r *runner) start(ctx context.Context, configs []Config) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	var workers []*worker
	r.metrics.forget()
	for _, c := range configs {
		w := &worker{config: c, log: r.options.Log, metrics: r.metrics, problem: "has not run yet"}
		r.metrics.applied.WithLabelValues(c.Name).Set(0)
		workers = append(workers, w)
		running.Go(func() { w.run(ctx, r.options.Interval) })
	}
	r.mu.Lock()
	r.workers = workers
	r.mu.Unlock()
	r.options.Log.Info("configuration in use", "file", r.options.ConfigFile, "configs", len(configs))
	r.clear()
	return func() {
		cancel()
		running.Wait()
	}
}

func (r *runner) complain(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err.Error() != r.problem {
		r.options.Log.Warn("configuration not usable", "problem", err.Error())
	}
	r.problem = err.Error()
	r.metrics.config.Set(0)
}

func (r *runner) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problem = ""
	r.metrics.config.Set(1)
}

func (r *runner) states() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	if r.problem != "" {
		lines = append(lines, "configuration: "+r.problem)
	}
	for _, w := range r.workers {
		lines = append(lines, "configs."+w.config.Name+": "+w.state())
	}
	return lines
}

// Listen opens address, which must be on loopback: what is served there is
// meant for the pod alone.
func Listen(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("reading address %s: it must be host:port", address)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("listening on %s: only loopback is allowed", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", address, errors.Unwrap(err))
	}
	return l, nil
}
