package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/postgres"
)

// arrival is the time between two claims: slow enough that no claim waits for
// another one's database, so that any wait that is seen has another cause.
const arrival = 100 * time.Millisecond

// Unchanged means within what runs differ by themselves: not above the worst
// run without a dead server, or this much above its median.
const unchanged = 1.1

// measureDeadServer takes the waiting times of claims on a good server, with
// and without a claim beside them whose server accepts and never answers.
func measureDeadServer(ctx context.Context, b *bench) (_ row, err error) {
	ctx, w, err := newWorld(ctx, b)
	if err != nil {
		return row{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return row{}, fmt.Errorf("listening as a dead server: %w", err)
	}
	defer silent.Close()
	go hold(silent)
	if err := w.makeDeadClass(ctx, silent); err != nil {
		return row{}, err
	}
	if _, err := w.startController(ctx); err != nil {
		return row{}, err
	}
	if err := w.awaitClass(ctx); err != nil {
		return row{}, err
	}
	var with, without waits
	for turn := range b.size.deadRuns {
		for _, dead := range []bool{turn%2 == 1, turn%2 == 0} {
			into := &without
			if dead {
				into = &with
			}
			if err := w.arrivals(ctx, turn, dead, into); err != nil {
				return row{}, err
			}
			b.say("  turn %d of %d, dead server %t: p99 pick-up %s ms, Ready %s ms", turn+1, b.size.deadRuns, dead,
				number(into.pickUp[turn]), number(into.ready[turn]))
		}
	}
	limit := max(most(without.pickUp), unchanged*median(without.pickUp))
	return row{
		what:  fmt.Sprintf("deadserver: p99 pick-up (and Ready) of %d claims beside one on a dead server", b.size.deadClaims),
		berth: fmt.Sprintf("%s ms (%s ms)", number(median(with.pickUp)), number(median(with.ready))),
		raw:   fmt.Sprintf("%s ms (%s ms) without it", number(median(without.pickUp)), number(median(without.ready))),
		ratio: number(median(with.pickUp) / median(without.pickUp)), figures: with.pickUp,
		must: fmt.Sprintf("unchanged: <= %s ms", number(limit)), reached: median(with.pickUp) <= limit,
	}, nil
}

// hold accepts connections, and never says a word.
func hold(silent net.Listener) {
	var held []net.Conn
	for {
		conn, err := silent.Accept()
		if err != nil {
			break
		}
		held = append(held, conn)
	}
	for _, conn := range held {
		_ = conn.Close()
	}
}

const deadClass = "dead"

func (w *world) makeDeadClass(ctx context.Context, silent net.Listener) error {
	address := silent.Addr().(*net.TCPAddr)
	dead := postgres.Target{Host: address.IP.String(), Port: uint16(address.Port), User: "postgres", Password: "unused", Database: "postgres", SSLMode: "disable"}
	return errors.Join(w.makeClass(ctx, class, w.admin, dropAtOnce), w.makeClass(ctx, deadClass, dead, nil))
}

// waits are the p99 of each run, in milliseconds.
type waits struct{ pickUp, ready []float64 }

// sighting is what a watch told of one claim.
type sighting struct{ made, pickedUp, ready time.Time }

// arrivals makes claims one after another, and adds how long they waited: for
// the first thing that the controller wrote on them, and for Ready.
func (w *world) arrivals(ctx context.Context, turn int, dead bool, into *waits) error {
	if dead {
		c := newClaim("on-a-dead-server")
		c.Spec.Class = deadClass
		if err := w.client.Create(ctx, c); err != nil {
			return fmt.Errorf("applying the dead server's claim: %w", err)
		}
	}
	prefix := fmt.Sprintf("turn%d-%t-", turn, dead)
	seen, err := w.observe(ctx, prefix, w.bench.size.deadClaims)
	if err != nil {
		return err
	}
	var pickUp, ready []time.Duration
	for _, s := range seen {
		pickUp, ready = append(pickUp, s.pickedUp.Sub(s.made)), append(ready, s.ready.Sub(s.made))
	}
	into.pickUp = append(into.pickUp, percentile(milliseconds(pickUp), 99))
	into.ready = append(into.ready, percentile(milliseconds(ready), 99))
	return w.removeClaims(ctx)
}

// observe makes n claims, and returns when all are Ready.
func (w *world) observe(ctx context.Context, prefix string, n int) (map[string]*sighting, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	seen := map[string]*sighting{}
	arrive := func() {
		tick := time.NewTicker(arrival)
		defer tick.Stop()
		for i := range n {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			c := newClaim(fmt.Sprintf("%s%d", prefix, i))
			mu.Lock()
			seen[c.Name] = &sighting{made: time.Now()}
			mu.Unlock()
			if err := w.client.Create(ctx, c); err != nil {
				cancel(fmt.Errorf("applying claims: %w", err))
				return
			}
		}
	}
	done := 0
	err := w.watch(ctx, &v1alpha1.DatabaseClaimList{}, func() { go arrive() }, func(o client.Object) bool {
		mu.Lock()
		defer mu.Unlock()
		s := seen[o.GetName()]
		if !strings.HasPrefix(o.GetName(), prefix) || s == nil {
			return false
		}
		if s.pickedUp.IsZero() && (len(o.GetFinalizers()) > 0 || o.(*v1alpha1.DatabaseClaim).Status.ObservedGeneration > 0) {
			s.pickedUp = time.Now()
		}
		if s.ready.IsZero() && ready(o.(*v1alpha1.DatabaseClaim).Status.Conditions) {
			s.ready = time.Now()
			done++
		}
		return done == n
	})
	return seen, err
}
