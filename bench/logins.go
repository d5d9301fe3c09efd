package main

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/postgres"
)

const (
	clients        = 12
	reconnectEvery = 5 * time.Millisecond
	latest         = time.Second // how late the slowest client sees a Secret
)

// tally counts logins, and keeps the first failure: without berth there are many alike.
type tally struct {
	logins, failed int
	first          error
}

// history is what a Secret told, and since when.
type history struct {
	mu      sync.Mutex
	entries []edition
}

type edition struct {
	since  time.Time
	target postgres.Target
}

func (h *history) add(e edition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries = append(h.entries, e)
}

// at is what a client knows that sees everything late by lag.
func (h *history) at(now time.Time, lag time.Duration) postgres.Target {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.entries[0]
	for _, e := range h.entries {
		if !e.since.Add(lag).After(now) {
			known = e
		}
	}
	return known.target
}

// reconnect has clients log in through the Secret for d. Each sees a change of
// it late by a time of its own, evenly spread up to a second.
func (w *world) reconnect(ctx context.Context, secret string, d time.Duration) (tally, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	h, known := &history{}, make(chan struct{})
	go func() {
		var once sync.Once
		cancel(w.watch(ctx, &corev1.SecretList{}, func() {}, func(o client.Object) bool {
			data := o.(*corev1.Secret).Data
			h.add(edition{time.Now(), w.as(string(data[credential.KeyDatabase]), string(data[credential.KeyUsername]), string(data[credential.KeyPassword]))})
			once.Do(func() { close(known) })
			return false
		}, client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", secret)}))
	}()
	select {
	case <-known:
	case <-ctx.Done():
		return tally{}, fmt.Errorf("waiting for Secret %s: %w", secret, context.Cause(ctx))
	}
	end := time.Now().Add(d)
	tallies := make([]tally, clients)
	var group errgroup.Group
	for i := range tallies {
		lag := latest * time.Duration(i) / (clients - 1)
		group.Go(func() error {
			var err error
			tallies[i], err = keepLoggingIn(ctx, h, lag, end)
			return err
		})
	}
	err := group.Wait()
	var all tally
	for _, t := range tallies {
		all.logins += t.logins
		all.failed += t.failed
		all.first = cmp.Or(all.first, t.first)
	}
	return all, err
}

func keepLoggingIn(ctx context.Context, h *history, lag time.Duration, end time.Time) (tally, error) {
	var t tally
	tick := time.NewTicker(reconnectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return t, context.Cause(ctx)
		case now := <-tick.C:
			if now.After(end) {
				return t, nil
			}
		}
		t.logins++
		if err := logIn(ctx, h.at(time.Now(), lag)); err != nil && ctx.Err() == nil {
			t.failed++
			t.first = cmp.Or(t.first, err)
		}
	}
}
