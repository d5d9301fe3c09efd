package warehouse

import (
	"context"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/postgres"
)

// Provider makes what warehouses are of. Each verb is idempotent, none waits,
// and none returns an error that holds a secret. An error is a Refusal, or it
// may go away by itself.
type Provider interface {
	// Observe reads what there is, from the API server itself.
	Observe(ctx context.Context, w *v1alpha1.Warehouse) (Observed, error)
	// Apply brings what Observe found to what the spec asks for, and returns
	// what there is then. Somebody who made it first is success.
	Apply(ctx context.Context, w *v1alpha1.Warehouse, have Observed) (Observed, error)
	// Delete asks for the end of it. What is gone already is success.
	Delete(ctx context.Context, w *v1alpha1.Warehouse) error
}

// Watched is a Provider that can tell when what it made has changed.
type Watched interface {
	Source(c cache.Cache, to handler.EventHandler) source.Source
}

// Observed is what a provider has of one warehouse.
type Observed struct {
	Composite           v1alpha1.CompositeReference
	Exists, Terminating bool
	Outdated            bool // Apply would change something

	// Ready is the provider's own verdict over all of it, as of the present spec.
	Ready bool
	// Unsynced is why the provider cannot work on it, since UnsyncedSince.
	Unsynced      string
	UnsyncedSince time.Time
	// Fault names what is not ready and why; Waiting is said when nothing is known.
	Fault, Waiting string

	MetadataStore *v1alpha1.MetadataStoreStatus
	DataStore     *v1alpha1.DataStoreStatus
	Identity      *v1alpha1.IdentityStatus
	Iceberg       *v1alpha1.IcebergStatus
	// Login is the path that workers use, password included; nil until there
	// is one. SecretReason and SecretFault say why the password is missing.
	Login                     *postgres.Target
	SecretReason, SecretFault string
}

// Refusal is an error that waiting alone does not mend.
type Refusal struct{ Reason, Message string }

func (r *Refusal) Error() string { return r.Message }

// Reasons of a Refusal.
const (
	ProviderMissing = "ProviderMissing" // what the provider works by is not installed
	Refused         = "Refused"         // Forbidden or Invalid
	FieldsDropped   = "FieldsDropped"   // the installed definition does not know a field
)
