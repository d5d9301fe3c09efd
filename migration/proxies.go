package migration

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/postgres"
)

// hold takes hold of the claim's proxies; without a switchboard there are none.
func (w *Worker) hold(claim types.NamespacedName) Hold {
	if w.Proxies != nil {
		return w.Proxies(claim)
	}
	return func(context.Context, postgres.Target) (Held, error) { return nobody{}, nil }
}

// nobody is held, and does at once what it is told.
type nobody struct{}

// Pause does nothing.
func (nobody) Pause(context.Context, time.Duration) error { return nil }

// Retarget does nothing.
func (nobody) Retarget(context.Context) error { return nil }

// Resume does nothing.
func (nobody) Resume(context.Context) error { return nil }

// Abort does nothing.
func (nobody) Abort(context.Context) {}
