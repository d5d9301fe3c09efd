package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-dev/berth/postgres"
)

// measureProxyRate has pgbench read through the proxy, and in turns through the
// same pgbouncer configured by hand.
func measureProxyRate(ctx context.Context, b *bench) (row, error) {
	return withTenant(ctx, b, func(ctx context.Context, t *tenant) (_ row, err error) {
		if err := t.fill(ctx); err != nil {
			return row{}, err
		}
		hand, bouncer, err := t.byHand()
		if err != nil {
			return row{}, err
		}
		defer func() { err = errors.Join(err, bouncer.Stop(5*time.Second)) }()
		if err := t.every(ctx, func() (bool, error) { return logIn(ctx, hand) == nil, nil }); err != nil {
			return row{}, fmt.Errorf("waiting for pgbouncer: %w", err)
		}
		ours, theirs, ratios := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
		for turn := range b.size.proxyPairs {
			for _, protocol := range protocols {
				measure := func(to postgres.Target) (float64, error) { return t.rate(ctx, to, protocol) }
				proxied, raw, err := sides(turn, measure, t.proxy.Target(tenantName), hand)
				if err != nil {
					return row{}, err
				}
				ours[protocol], theirs[protocol] = append(ours[protocol], proxied), append(theirs[protocol], raw)
				ratios[protocol] = append(ratios[protocol], proxied/raw)
				b.say("  turn %d of %d, %s: %s tps through dbproxy, %s by hand", turn+1, b.size.proxyPairs, protocol, number(proxied), number(raw))
			}
		}
		pair := func(of map[string][]float64) string {
			return number(median(of["simple"])) + "; " + number(median(of["extended"]))
		}
		return row{
			what:  fmt.Sprintf("proxyrate: pgbench -S, %d clients, protocol simple; extended (transactions a second)", rateClients),
			berth: pair(ours), raw: pair(theirs) + " by hand", ratio: pair(ratios), figures: ratios["simple"],
			must:    fmt.Sprintf("ratios >= %.2f", mustRate),
			reached: median(ratios["simple"]) >= mustRate && median(ratios["extended"]) >= mustRate,
		}, nil
	})
}

// measureProxyLatency has one client of pgbench read through the proxy, and in
// turns directly.
func measureProxyLatency(ctx context.Context, b *bench) (row, error) {
	return withTenant(ctx, b, func(ctx context.Context, t *tenant) (row, error) {
		if err := t.fill(ctx); err != nil {
			return row{}, err
		}
		var ours, theirs, added []float64
		for turn := range b.size.proxyTurns {
			measure := func(to postgres.Target) (float64, error) { return t.latency(ctx, to) }
			proxied, raw, err := sides(turn, measure, t.proxy.Target(tenantName), t.login)
			if err != nil {
				return row{}, err
			}
			ours, theirs, added = append(ours, proxied), append(theirs, raw), append(added, proxied-raw)
			b.say("  turn %d of %d: %s ms through dbproxy, %s ms directly", turn+1, b.size.proxyTurns, number(proxied), number(raw))
		}
		return row{
			what:  "proxylatency: p50 of pgbench -S, 1 client, and what dbproxy adds to it",
			berth: number(median(ours)) + " ms", raw: number(median(theirs)) + " ms direct", ratio: number(median(ours) / median(theirs)), figures: added,
			must: fmt.Sprintf("adds <= %.2f ms", mustLatency), reached: median(added) <= mustLatency,
		}, nil
	})
}

// sides measures both, in an order that alternates with the turns.
func sides(turn int, measure func(postgres.Target) (float64, error), ours, theirs postgres.Target) (a, b float64, err error) {
	if turn%2 == 1 {
		b, a, err = sides(turn+1, measure, theirs, ours)
		return a, b, err
	}
	if a, err = measure(ours); err != nil {
		return 0, 0, err
	}
	b, err = measure(theirs)
	return a, b, err
}
