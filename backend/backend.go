// Package backend is the seam between berth and whatever provides a PostgreSQL
// server. A backend never waits: it looks, starts work and returns. What it
// lacks is an optional interface it does not implement, so that a claim which
// needs it is refused, never quietly changed.
package backend

import (
	"context"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/postgres"
)

// Backend provides servers. Every method is idempotent and returns soon.
type Backend interface {
	// Observe says what there is of the server. Absence is not an error.
	Observe(ctx context.Context, want Server) (Observed, error)
	// Apply starts whatever brings the server closer to want.
	Apply(ctx context.Context, want Server) error
	// Delete starts the end of the server and all its data; a server that is gone is success.
	Delete(ctx context.Context, id string) error
	// List names every server that this backend made.
	List(ctx context.Context) ([]string, error)
}

// Server is a server as its class and, when it is dedicated, its claim want it.
type Server struct {
	ID     string // from naming, stored in the status of whoever uses it
	Class  *v1alpha1.DatabaseClass
	Wishes Wishes
}

// Wishes are what only some backends can honour.
type Wishes struct {
	Version           string // "17" or "17.4"; empty leaves it to the class
	Shape             string
	MinStorageGB      int32
	MaxStorageGB      int64
	BackupPolicy      string
	RestoreFrom       string
	MaintenanceWindow string
	Tags              []v1alpha1.Tag
}

// Observed is what a backend found.
type Observed struct {
	Exists bool
	Usable bool
	// Reason and Message say why a server is not Usable; Permanent, that
	// waiting will not help.
	Reason, Message string
	Permanent       bool
	// Admin logs in as the server's administrator; valid while Usable.
	Admin postgres.Target
}

// Feature is a field of Wishes, named as in a claim's spec.
type Feature string

// The features that a claim can ask for.
const (
	Version           Feature = "dbVersion"
	Shape             Feature = "shape"
	Storage           Feature = "minStorageGB"
	BackupPolicy      Feature = "backupPolicy"
	RestoreFrom       Feature = "restoreFrom"
	MaintenanceWindow Feature = "preferredMaintenanceWindow"
	Tags              Feature = "tags"
)

// Featured is a backend that honours some wishes.
type Featured interface {
	Supports(Feature) bool
}

// Watched is a backend that tells when a server changed, so that nobody polls it.
type Watched interface {
	// OnChange calls notify, from any goroutine and soon after the fact, with
	// the id of a server whose Observed may have changed.
	OnChange(notify func(id string))
}

// Unsupported are the features that wishes use and b does not have.
func Unsupported(b Backend, wishes Wishes) []Feature {
	asked := map[Feature]bool{
		Version: wishes.Version != "", Shape: wishes.Shape != "",
		Storage:      wishes.MinStorageGB > 0 || wishes.MaxStorageGB > 0,
		BackupPolicy: wishes.BackupPolicy != "", RestoreFrom: wishes.RestoreFrom != "",
		MaintenanceWindow: wishes.MaintenanceWindow != "", Tags: len(wishes.Tags) > 0,
	}
	featured, _ := b.(Featured)
	var missing []Feature
	for _, f := range []Feature{Version, Shape, Storage, BackupPolicy, RestoreFrom, MaintenanceWindow, Tags} {
		if asked[f] && (featured == nil || !featured.Supports(f)) {
			missing = append(missing, f)
		}
	}
	return missing
}
