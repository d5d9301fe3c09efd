package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// watch calls see for every object of list's kind, as it is now and at each
// change, until see is done. started is called once the watch stands. A watch
// that the API server ends, as it does with a slow one, is begun again: see
// then meets every object anew.
func (w *world) watch(ctx context.Context, list client.ObjectList, started func(), see func(client.Object) (done bool), o ...client.ListOption) error {
	for {
		stream, err := w.client.Watch(ctx, list, append(o, client.InNamespace(namespace))...)
		if err != nil {
			return fmt.Errorf("watching: %w", err)
		}
		started()
		started = func() {}
		err = follow(ctx, stream, see)
		stream.Stop()
		if !errors.Is(err, errEnded) {
			return err
		}
	}
}

var errEnded = errors.New("the API server ended the watch")

func follow(ctx context.Context, stream apiwatch.Interface, see func(client.Object) (done bool)) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case e, open := <-stream.ResultChan():
			if !open {
				return errEnded
			}
			if e.Type == apiwatch.Error {
				return fmt.Errorf("watching: %w", apierrors.FromObject(e.Object))
			}
			if o, ok := e.Object.(client.Object); ok && e.Type != apiwatch.Deleted && see(o) {
				return nil
			}
		}
	}
}

// awaitReady returns when n claims are Ready.
func (w *world) awaitReady(ctx context.Context, n int) error {
	held := map[string]bool{}
	reported := time.Now()
	return w.watch(ctx, &v1alpha1.DatabaseClaimList{}, func() {}, func(o client.Object) bool {
		if ready(o.(*v1alpha1.DatabaseClaim).Status.Conditions) {
			held[o.GetName()] = true
		}
		if time.Since(reported) > 10*time.Second {
			reported = time.Now()
			w.bench.say("  %d of %d claims are Ready", len(held), n)
		}
		return len(held) == n
	})
}

// awaitClass returns when the class is Ready.
func (w *world) awaitClass(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return until(ctx, func() (bool, error) {
		c := &v1alpha1.DatabaseClass{}
		err := w.client.Get(ctx, client.ObjectKey{Name: class}, c)
		return ready(c.Status.Conditions), err
	})
}

// makeClaims makes n claims, eight at a time, named by name.
func (w *world) makeClaims(ctx context.Context, n int, claim func(i int) *v1alpha1.DatabaseClaim) error {
	return each(ctx, n, func(ctx context.Context, i int) error { return w.client.Create(ctx, claim(i)) })
}

// concurrency is how many statements one server gets at once from a
// controller, and so from a bare loop.
const concurrency = 8

// each calls f for 0 to n-1, eight at a time, and returns the first error.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for i := range n {
		group.Go(func() error { return f(ctx, i) })
	}
	return group.Wait()
}
