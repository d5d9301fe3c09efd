// Package step is the kernel: it runs a reconcile as an ordered list of steps.
//
// Each step owns one status condition. Living objects run every step on every
// pass; batch objects skip the steps whose condition is already True. Only this
// package writes conditions, events, finalizers and their metrics.
package step

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Stalled is the condition that tells kstatus that waiting will not help: it
// exists, and is True, only while a step is Blocked.
// https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
const Stalled = "Stalled"

// Reasons that the kernel itself writes.
const (
	NotReached = "NotReached" // an earlier step is not done yet
	Deleting   = "Deleting"   // the root condition while the Down steps run
	ReadFailed = "ReadFailed" // what the steps need to see could not be read
	Overdue    = "Overdue"    // event: a condition stayed untrue past its deadline
)

// Object is a resource that reports conditions and the generation they speak of.
type Object interface {
	client.Object
	Conditions() *[]metav1.Condition
	ObservedGeneration() *int64
}

// Step drives one condition to True.
type Step[S any] struct {
	condition string
	run       func(ctx context.Context, scope S) Outcome
	within    time.Duration
	aside     bool
}

// Do names the condition that run drives to True. Run must be idempotent: a
// pass may see a world that is older than its own last write.
func Do[S any](condition string, run func(context.Context, S) Outcome) Step[S] {
	return Step[S]{condition: condition, run: run}
}

// Within says how long the condition may stay untrue. After that the condition's
// message says so, and one event and one count of berth_step_overdue_total tell.
func (s Step[S]) Within(d time.Duration) Step[S] {
	s.within = d
	return s
}

// Aside keeps the condition out of the root's verdict, and lets later steps run:
// for work that matters but does not make the object unusable meanwhile.
func (s Step[S]) Aside() Step[S] {
	s.aside = true
	return s
}

// Plan is everything the kernel needs to know about one kind.
type Plan[T Object, S any] struct {
	Kind      string // label of metrics
	Finalizer string
	Root      string // "Ready" for living objects, "Succeeded" for batch ones
	Batch     bool   // steps whose condition is True are not run again
	Open      func(ctx context.Context, obj T) (S, error)
	Up, Down  []Step[S]
}

// Backoff spaces the retries of a failing object: 0.5 s doubling to 2 min, for
// each object on its own, so that one never slows another.
func Backoff() workqueue.TypedRateLimiter[reconcile.Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](500*time.Millisecond, 2*time.Minute)
}
