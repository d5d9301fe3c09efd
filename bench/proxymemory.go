package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	mustProxyMemory = 20e6 // bytes
	scrapeEvery     = 100 * time.Millisecond
	memoryRotations = 10
)

// measureProxyMemory reads what a fresh dbproxy takes: idle, and at its peak
// while clients work, credentials rotate and its metrics are read.
func measureProxyMemory(ctx context.Context, b *bench) (row, error) {
	return withTenant(ctx, b, func(ctx context.Context, t *tenant) (row, error) {
		var idle, peaks, bouncers []float64
		for turn := range b.size.proxyTurns {
			if err := t.restartProxy(ctx); err != nil {
				return row{}, err
			}
			rest, peak, bouncer, err := t.memory(ctx)
			if err != nil {
				return row{}, err
			}
			idle, peaks, bouncers = append(idle, rest/1e6), append(peaks, peak/1e6), append(bouncers, bouncer/1e6)
			b.say("  turn %d of %d: %s MB idle, peak %s MB; pgbouncer %s MB", turn+1, b.size.proxyTurns, number(rest/1e6), number(peak/1e6), number(bouncer/1e6))
		}
		return row{
			what:  fmt.Sprintf("proxymemory: resident memory of dbproxy, idle; at its peak under load, %d rotations, metrics read every %s", memoryRotations, scrapeEvery),
			berth: fmt.Sprintf("%s; %s MB", number(median(idle)), number(most(peaks))), raw: number(most(bouncers)) + " MB of pgbouncer",
			figures: peaks, must: fmt.Sprintf("<= %s MB", number(mustProxyMemory/1e6)), reached: most(peaks) <= mustProxyMemory/1e6,
		}, nil
	})
}

// memory is that of a fresh proxy at rest and at its peak, and its pgbouncer's
// at its peak.
func (t *tenant) memory(ctx context.Context) (idle, peak, bouncer float64, err error) {
	select {
	case <-ctx.Done():
		return 0, 0, 0, context.Cause(ctx)
	case <-time.After(t.bench.size.proxyIdle):
	}
	if idle, _, err = memoryOf(t.proxy.Pid()); err != nil {
		return 0, 0, 0, err
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	scraped := make(chan error, 1)
	go func() { scraped <- scrape(reading, t.proxy.MetricsURL()) }()
	_, err = t.underLoad(ctx, func() error { return t.paced(ctx, memoryRotations, true) })
	stop()
	if err := errors.Join(err, <-scraped); err != nil {
		return 0, 0, 0, err
	}
	child, err := childOf(t.proxy.Pid())
	if err != nil {
		return 0, 0, 0, err
	}
	_, peak, err = memoryOf(t.proxy.Pid())
	_, bouncer, failure := memoryOf(child)
	return idle, peak, bouncer, errors.Join(err, failure)
}

// scrape reads metrics as Prometheus does, only more often.
func scrape(ctx context.Context, url string) error {
	tick := time.NewTicker(scrapeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		response, err := http.Get(url)
		if err != nil {
			return fmt.Errorf("reading metrics: %w", err)
		}
		_, err = io.Copy(io.Discard, response.Body)
		if err := errors.Join(err, response.Body.Close()); err != nil {
			return fmt.Errorf("reading metrics: %w", err)
		}
	}
}

// childOf is the only child of a process.
func childOf(pid int) (int, error) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // a pattern that is always valid
	for _, file := range threads {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // that thread has ended
		}
		if children := strings.Fields(string(text)); len(children) > 0 {
			return strconv.Atoi(children[0])
		}
	}
	return 0, fmt.Errorf("finding the child of process %d: there is none", pid)
}
