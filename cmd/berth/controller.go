package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/backend/existing"
	"github.com/berth-dev/berth/backend/local"
)

// ControllerCmd runs the controllers of a cluster until it is told to stop.
type ControllerCmd struct {
	MetricsAddress          string   `help:"Where Prometheus finds the metrics; 0 for nowhere." default:"127.0.0.1:9090"`
	HealthAddress           string   `help:"Where /healthz and /readyz answer; 0 for nowhere." default:"127.0.0.1:8081"`
	LeaderElect             bool     `help:"Work only while this process is the leader." default:"true" negatable:""`
	LeaderElectionNamespace string   `help:"Namespace of the leader's Lease; default: that of the pod." placeholder:"NAME"`
	TenantNamespaces        []string `help:"Keep the claims of these namespaces only; default: all." placeholder:"NAME"`
	LocalServers            string   `help:"Offer backend local, with its servers in this folder." type:"path"`
	PostgreSQL              string   `name:"postgresql" help:"Folder with <major>/bin: postgres for backend local, pg_dump and pg_restore for migrations." type:"path"`
	SwitchboardFlags
	Warehouses bool `help:"Keep organisations and their warehouses too." default:"true" negatable:""`
	WarehouseFlags
}

// Help shows how to run it.
func (ControllerCmd) Help() string {
	return "Example, against the cluster of your kubeconfig:\n\n  berth controller --no-leader-elect"
}

// Run runs the controllers until ctx ends.
func (c *ControllerCmd) Run(ctx context.Context, g *Globals) (err error) {
	config, err := g.Config()
	if err != nil {
		return err
	}
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	debug.SetGCPercent(35) // objects of thousands of claims live long; a denser heap costs little
	watched := c.TenantNamespaces
	if c.Warehouses {
		watched = c.watched(watched)
	}
	mgr, err := newManager(config, settings{
		Metrics: c.MetricsAddress, Health: c.HealthAddress,
		Elect: c.LeaderElect, Lease: c.LeaderElectionNamespace, Tenants: watched,
	})
	if err != nil {
		return err
	}
	backends := map[string]backend.Backend{"existing": existing.New(mgr.GetAPIReader())}
	if c.LocalServers != "" {
		servers, err := newLocal(c.LocalServers, c.PostgreSQL)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, servers.Close()) }()
		backends["local"] = servers
	}
	servers := newServers()
	defer servers.Close()
	board, err := c.SwitchboardFlags.add(mgr, config)
	if err != nil {
		return err
	}
	if err := addControllers(ctx, mgr, equipment{backends, servers, board, c.PostgreSQL}); err != nil {
		return err
	}
	if c.Warehouses {
		if err := c.WarehouseFlags.add(ctx, mgr); err != nil {
			return err
		}
	}
	return mgr.Start(ctx)
}

func newLocal(dir, postgresql string) (*local.Backend, error) {
	b, err := local.New(local.Options{Dir: dir, Bin: postgresql, Log: func(format string, args ...any) {
		slog.Info(fmt.Sprintf(format, args...))
	}})
	if err != nil {
		return nil, fmt.Errorf("opening local servers: %w", err)
	}
	return b, nil
}
