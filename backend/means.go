package backend

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/postgres"
)

// Means are what the workers of every kind work with; one process has one of each.
type Means struct {
	Client  client.Client
	Finder  Finder
	Clock   clock.PassiveClock
	Servers *postgres.Servers
	Keeper  *credential.Keeper
	// Cluster tells this cluster's databases from another's on the same
	// server: the UID of the namespace kube-system.
	Cluster string
}

// readersBacklog is how many changes are told before the controllers run.
const readersBacklog = 64

// ReadersChanged tells of objects of a kind whose proxies changed, until ctx ends.
func (m Means) ReadersChanged(ctx context.Context, kind string) <-chan event.GenericEvent {
	out := make(chan event.GenericEvent, readersBacklog)
	if m.Keeper.Readers == nil {
		return out
	}
	m.Keeper.Readers.OnReaders(func(of string, object client.ObjectKey) {
		if of != kind {
			return
		}
		o := &metav1.PartialObjectMetadata{}
		o.Namespace, o.Name = object.Namespace, object.Name
		select {
		case out <- event.GenericEvent{Object: o}:
		case <-ctx.Done():
		}
	})
	return out
}

// Connection is what a tenant needs to log in to t.
func Connection(t postgres.Target) credential.Connection {
	return credential.Connection{
		Host: t.Host, Port: t.Port, Database: t.Database, Username: t.User, Password: t.Password,
		SSLMode: t.SSLMode, CA: string(t.RootCA), URI: t.URI(), DSN: t.KeyValue(),
	}
}
