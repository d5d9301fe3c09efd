// Package warehouse keeps Orgs and Warehouses: it has a provider make the
// stores of an organisation, tells how far that is, proves a login, and
// releases all of it. What a provider does is in the folders below; it knows no
// HTTP and hands out no credential.
package warehouse

import (
	"log/slog"
	"sync"
	"time"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/step"
)

// Worker runs the steps of all warehouses and orgs.
type Worker struct {
	Client    client.Client
	Live      client.Reader // the API server itself
	Clock     clock.PassiveClock
	Providers map[string]Provider
	Namespace string // of the organisations' Secrets
	Budget    Budget
	Log       *slog.Logger

	controller controller.Controller
	cache      cache.Cache
	mu         sync.Mutex
	watched    map[string]bool // providers that are watched
	prober     *prober
}

// Budget is how long things may take. The zero value is the default of each.
type Budget struct {
	Provisioning time.Duration // 30 min: an attempt may be unusable
	Sync         time.Duration // 10 min: the provider may be out of sync
	Look         time.Duration // 30 s: between looks at what no watch tells
	Retry        time.Duration // 10 s: after a login that failed
	Verified     time.Duration // 30 min: a login that worked is taken as working
}

func (b Budget) orDefault() Budget {
	for d, value := range map[*time.Duration]time.Duration{
		&b.Provisioning: 30 * time.Minute, &b.Sync: 10 * time.Minute, &b.Look: 30 * time.Second,
		&b.Retry: 10 * time.Second, &b.Verified: 30 * time.Minute,
	} {
		if *d == 0 {
			*d = value
		}
	}
	return b
}

// Plan is what becomes of a Warehouse, in order. The attempt has one budget,
// which judge and request keep; so no step has a deadline of its own.
func (w *Worker) Plan() step.Plan[*v1alpha1.Warehouse, *scope] {
	return step.Plan[*v1alpha1.Warehouse, *scope]{
		Kind:      "Warehouse",
		Finalizer: naming.Finalizer,
		Root:      v1alpha1.Ready,
		Open:      w.open,
		Up: []step.Step[*scope]{
			step.Do(v1alpha1.Wanted, w.want),
			step.Do(v1alpha1.Admitted, w.admit),
			step.Do(v1alpha1.Requested, w.request),
			step.Do(v1alpha1.MetadataStoreReady, metadataStore).Aside(),
			step.Do(v1alpha1.DataStoreReady, dataStore).Aside(),
			step.Do(v1alpha1.IdentityReady, identity).Aside(),
			step.Do(v1alpha1.SecretsReady, secrets).Aside(),
			step.Do(v1alpha1.Provisioned, w.judge),
			step.Do(v1alpha1.Usable, w.login),
		},
		Down: []step.Step[*scope]{step.Do(v1alpha1.Released, w.release)},
	}
}
