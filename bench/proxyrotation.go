package main

import (
	"context"
	"fmt"
	"time"
)

const (
	proxyRotateEvery = 300 * time.Millisecond
	mustStall        = 250 // ms
	mustTakeover     = 2 * time.Second
)

// measureProxyRotation counts what clients notice of rotations, beside the
// same load without any.
func measureProxyRotation(ctx context.Context, b *bench) (row, error) {
	return withTenant(ctx, b, func(ctx context.Context, t *tenant) (row, error) {
		turns := b.size.proxyTurns
		each := max(1, b.size.proxyRotations/turns)
		var stalls, calm []float64
		var failures, done, undisturbed int
		for turn := range turns {
			for _, rotating := range []bool{turn%2 == 0, turn%2 == 1} {
				seen, err := t.underLoad(ctx, func() error { return t.paced(ctx, each, rotating) })
				if err != nil {
					return row{}, err
				}
				if seen.First != nil {
					b.say("  such as: %v", seen.First)
				}
				longest := milliseconds([]time.Duration{seen.Longest})[0]
				b.say("  turn %d of %d, rotating %t: %d failures in %d, longest stall %s ms", turn+1, turns, rotating, seen.Failed, seen.Done, number(longest))
				if rotating {
					stalls, failures, done = append(stalls, longest), failures+seen.Failed, done+seen.Done
				} else {
					calm, undisturbed = append(calm, longest), undisturbed+seen.Failed
				}
			}
		}
		return row{
			what: fmt.Sprintf("proxyrotation: client errors over %d rotations, %d long-lived and %d reconnecting clients; longest stall",
				each*turns, longLived, reconnecting),
			berth:   fmt.Sprintf("%d of %d; %s ms", failures, done, number(most(stalls))),
			raw:     fmt.Sprintf("%d; %s ms without rotations", undisturbed, number(most(calm))),
			figures: stalls, must: fmt.Sprintf("0; < %d ms", mustStall), reached: failures == 0 && done > 0 && most(stalls) < mustStall,
		}, nil
	})
}

// paced rotates n times, or lets the same time pass.
func (t *tenant) paced(ctx context.Context, n int, rotating bool) error {
	pace := time.NewTicker(proxyRotateEvery)
	defer pace.Stop()
	for range n {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-pace.C:
		}
		if rotating {
			if _, err := t.rotate(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// measureProxyTakeover takes the time from the change of the mounted Secret
// until a query through the proxy runs as the new login, under load. Beside it
// stands what a program takes that logs in anew by itself.
func measureProxyTakeover(ctx context.Context, b *bench) (row, error) {
	return withTenant(ctx, b, func(ctx context.Context, t *tenant) (row, error) {
		var took, direct []time.Duration
		seen, err := t.underLoad(ctx, func() error {
			for range b.size.proxyRotations {
				through, err := t.rotate(ctx)
				if err != nil {
					return err
				}
				began := time.Now()
				if err := logIn(ctx, t.login); err != nil {
					return fmt.Errorf("logging in directly: %w", err)
				}
				took, direct = append(took, through), append(direct, time.Since(began))
			}
			return nil
		})
		if err != nil {
			return row{}, err
		}
		ours, theirs := milliseconds(took), milliseconds(direct)
		b.say("  %d client errors in %d; median %s ms", seen.Failed, seen.Done, number(median(ours)))
		p99 := percentile(ours, 99)
		return row{
			what:  fmt.Sprintf("proxytakeover: Secret changed until a query runs as the new login, p99 of %d, under load", len(ours)),
			berth: number(p99) + " ms", raw: number(percentile(theirs, 99)) + " ms for a login and a query", ratio: "", figures: ours,
			must: "p99 < 2 s", reached: p99 < milliseconds([]time.Duration{mustTakeover})[0] && seen.Failed == 0,
		}, nil
	})
}
