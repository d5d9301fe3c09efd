package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// atOnce is how many requests of ours are underway, so that we are not what is measured.
const atOnce = 16

// measureComposite has composites that are up say something new, one after the
// other, and measures until their warehouses say so.
func measureComposite(ctx context.Context, b *bench) (_ row, err error) {
	ctx, w, err := newLake(ctx, b)
	if err != nil {
		return row{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	const orgs = 20
	if _, err := w.provision(ctx, "org", orgs, 0); err != nil {
		return row{}, err
	}
	var figures []float64
	seen := map[string]chan string{}
	for i := range orgs {
		seen[fmt.Sprint("org-", i)] = make(chan string, 16)
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	standing := make(chan struct{})
	var watch errgroup.Group
	watch.Go(func() error {
		return w.watch(watching, &v1alpha1.WarehouseList{}, func() { close(standing) }, func(o client.Object) bool {
			select {
			case seen[o.GetName()] <- o.(*v1alpha1.Warehouse).StateMessage():
			default: // nobody waits for this one now
			}
			return false
		})
	})
	<-standing
	for i := range b.size.changes {
		name, says := fmt.Sprint("org-", i%orgs), fmt.Sprint("change ", i)
		began := time.Now()
		if err := w.say(ctx, name, map[string]any{"conditions": lakeConditions("False", says)}); err != nil {
			return row{}, err
		}
		for last := ""; last != says; {
			select {
			case last = <-seen[name]:
			case <-ctx.Done():
				return row{}, context.Cause(ctx)
			}
		}
		figures = append(figures, float64(time.Since(began).Microseconds())/1000)
	}
	stop()
	_ = watch.Wait() // it ended because we said so
	p99 := percentile(figures, 99)
	return row{
		what: fmt.Sprintf("status change of a composite to its warehouse's (%d changes), ms", len(figures)), berth: "p99 " + number(p99),
		figures: figures, must: "p99 < 1000", reached: p99 < 1000,
	}, nil
}

// measureOrgs provisions many orgs at once, without and with some whose login
// hangs, and compares the others.
func measureOrgs(ctx context.Context, b *bench) (_ row, err error) {
	ctx, w, err := newLake(ctx, b)
	if err != nil {
		return row{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	var took [3][]float64
	for i, side := range []struct {
		name        string
		of, hanging int
	}{{"first", b.size.hanging, 0}, {"alone", b.size.orgs, 0}, {"beside", b.size.orgs, b.size.hanging}} { // the first finds nothing warm, and does not count
		if took[i], err = w.provision(ctx, side.name, side.of, side.hanging); err == nil {
			err = w.removeWarehouses(ctx)
		}
		if err != nil {
			return row{}, err
		}
	}
	beside, one, other := took[2], percentile(took[1], 99), percentile(took[2], 99)
	return row{
		what:  fmt.Sprintf("%d orgs provisioned at once, %d of them hanging: the others until ready, s", b.size.orgs, b.size.hanging),
		berth: "p99 " + number(other), raw: "p99 " + number(one) + " without them", ratio: number(other / one), figures: beside,
		must: "p99 <= 1.2 times that without them", reached: other <= 1.2*one,
	}, nil
}

// removeWarehouses returns when all are gone.
func (l *lake) removeWarehouses(ctx context.Context) error {
	if err := l.client.DeleteAllOf(ctx, &v1alpha1.Warehouse{}); err != nil {
		return fmt.Errorf("deleting warehouses: %w", err)
	}
	return until(ctx, func() (bool, error) {
		left := &v1alpha1.WarehouseList{}
		err := l.client.List(ctx, left, client.Limit(1))
		return len(left.Items) == 0, err
	})
}
