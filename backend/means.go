package backend

import (
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

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

// Connection is what a tenant needs to log in to t.
func Connection(t postgres.Target) credential.Connection {
	return credential.Connection{
		Host: t.Host, Port: t.Port, Database: t.Database, Username: t.User, Password: t.Password,
		SSLMode: t.SSLMode, CA: string(t.RootCA), URI: t.URI(), DSN: t.KeyValue(),
	}
}
