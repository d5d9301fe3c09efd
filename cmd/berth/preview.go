package main

import (
	"context"
	"errors"
	"path/filepath"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/backend/existing"
	"github.com/berth-dev/berth/backend/local"
	"github.com/berth-dev/berth/claim"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/role"
)

// previewer plans with the rights of the person who asks: their access to the
// API, to the class's Secret and to berth dev's folder.
type previewer struct {
	claims *claim.Worker
	roles  *role.Worker
}

func newPreviewer(g *Globals) (Previewer, error) {
	api, _, err := g.Client()
	if err != nil {
		return nil, err
	}
	finder := backend.Finder{Live: api, Backends: map[string]backend.Backend{
		"existing": existing.New(api),
		"local":    local.Looker{Dir: filepath.Join(g.Data, "servers")},
	}}
	keeper := &credential.Keeper{Client: api, Live: api, Clock: clock.RealClock{}}
	means := backend.Means{Client: api, Finder: finder, Clock: clock.RealClock{}, Servers: newServers(), Keeper: keeper}
	return &previewer{claims: &claim.Worker{Means: means}, roles: &role.Worker{Means: means}}, nil
}

// Preview says what obj would cause; a class causes nothing by itself but its server.
func (p *previewer) Preview(ctx context.Context, obj client.Object) (backend.Preview, error) {
	cluster, err := clusterID(ctx, p.claims.Client)
	if err != nil {
		return backend.Preview{}, err
	}
	p.claims.Cluster, p.roles.Cluster = cluster, cluster
	switch o := obj.(type) {
	case *v1alpha1.DatabaseClaim:
		return p.claims.Preview(ctx, o)
	case *v1alpha1.RoleClaim:
		return p.roles.Preview(ctx, o)
	case *v1alpha1.DatabaseClass:
		return p.claims.PreviewClass(ctx, o)
	}
	return backend.Preview{}, errors.New("only DatabaseClaims, RoleClaims and DatabaseClasses can be planned")
}
