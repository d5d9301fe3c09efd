package dsnexec

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// worker keeps one config applied. It shares nothing with the workers of the
// other configs.
type worker struct {
	config  Config
	log     *slog.Logger
	metrics *metrics

	applied, failed [sha256.Size]byte // digests of the last jobs
	retryAt         time.Time
	retryAfter      time.Duration

	mu      sync.Mutex
	problem string // empty: what the sources hold now is applied
}

// run looks at the sources every interval until ctx ends.
func (w *worker) run(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		w.pass(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *worker) pass(ctx context.Context) {
	j, hide, err := prepare(w.config)
	if err != nil {
		w.fails(hide.Replace(err.Error()))
		return
	}
	if j.digest == w.applied {
		w.holds()
		return
	}
	if !due(j.digest, w.failed, w.retryAt, time.Now()) {
		return
	}
	began := time.Now()
	if err := j.apply(ctx); err != nil {
		if ctx.Err() != nil {
			return
		}
		w.retryAfter = nextRetry(w.retryAfter, j.digest == w.failed)
		w.failed, w.retryAt = j.digest, time.Now().Add(w.retryAfter)
		w.metrics.runs.WithLabelValues(w.config.Name, "failed").Inc()
		w.fails(hide.Replace(err.Error()))
		return
	}
	w.applied, w.failed, w.retryAfter = j.digest, [sha256.Size]byte{}, 0
	w.metrics.runs.WithLabelValues(w.config.Name, "applied").Inc()
	w.metrics.last.WithLabelValues(w.config.Name).SetToCurrentTime()
	w.log.Info("applied", "config", w.config.Name, "commands", len(j.calls), "took", time.Since(began).Round(time.Millisecond))
	w.holds()
}

// due tells whether a job should run now: a new one at once, one that failed
// when its pause is over.
func due(job, failed [sha256.Size]byte, retryAt, now time.Time) bool {
	return job != failed || !now.Before(retryAt)
}

// nextRetry doubles the pause while the same job fails.
func nextRetry(last time.Duration, same bool) time.Duration {
	if !same || last == 0 {
		return firstRetry
	}
	return min(2*last, lastRetry)
}

// fails records why the sources are not applied; a reason is logged once, until
// it changes.
func (w *worker) fails(problem string) {
	problem = strings.Join(strings.Fields(problem), " ")
	w.mu.Lock()
	defer w.mu.Unlock()
	if problem != w.problem {
		w.log.Warn("not applied", "config", w.config.Name, "problem", problem)
	}
	w.problem = problem
	w.metrics.applied.WithLabelValues(w.config.Name).Set(0)
}

func (w *worker) holds() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problem = ""
	w.metrics.applied.WithLabelValues(w.config.Name).Set(1)
}

func (w *worker) state() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.problem == "" {
		return "applied"
	}
	return w.problem
}
