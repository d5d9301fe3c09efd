package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	controllerconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/claim"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/role"
	"github.com/berth-dev/berth/switchboard"
)

// workers is how many objects of a kind are worked on at once. It is a multiple
// of what one server is asked at once: while some passes wait for a server,
// others wait for the API, and a slow server does not take them all.
const workers = 4 * serverConcurrency

const (
	serverConcurrency = 8
	sweepInterval     = time.Minute
)

// newScheme knows Kubernetes' own kinds and berth's.
func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	return scheme, v1alpha1.AddToScheme(scheme)
}

// settings are those of a controller process. The address "0" is none.
type settings struct {
	Metrics, Health string
	Elect           bool
	Lease           string   // namespace of the leader's Lease; empty is the pod's own
	Tenants         []string // namespaces whose claims are kept; empty is all
}

// newManager watches only Secrets that berth wrote, and keeps no managed
// fields. It is ready once it has seen all that it watches, leader or not, so
// that a leader that goes is followed by one that need not look first.
func newManager(config *rest.Config, o settings) (ctrl.Manager, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	ctrl.SetLogger(logr.FromSlogHandler(slog.Default().Handler()))
	config = rest.CopyConfig(config)
	config.QPS = -1 // the API server's own priority and fairness decides
	tenants := map[string]cache.Config{}
	for _, namespace := range o.Tenants {
		tenants[namespace] = cache.Config{}
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:     scheme,
		Controller: controllerconfig.Controller{EnableWarmup: &o.Elect},
		Cache: cache.Options{
			DefaultNamespaces: tenants,
			DefaultTransform:  slim,
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Secret{}: {Label: labels.SelectorFromSet(labels.Set{naming.ManagedByLabel: naming.ManagedBy})},
			},
		},
		Metrics:                       server.Options{BindAddress: o.Metrics},
		HealthProbeBindAddress:        o.Health,
		LeaderElection:                o.Elect,
		LeaderElectionNamespace:       o.Lease,
		LeaderElectionID:              "controller.berth.dev",
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return nil, fmt.Errorf("preparing the controllers: %w", err)
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, err
	}
	return mgr, mgr.AddReadyzCheck("caches", func(r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if !mgr.GetCache().WaitForCacheSync(ctx) {
			return errors.New("not everything that is watched has been seen yet")
		}
		return nil
	})
}

// slim drops from cached objects what no step reads; writes are patches of what
// steps change, so nothing of it is lost.
func slim(o any) (any, error) {
	if object, ok := o.(client.Object); ok {
		object.SetManagedFields(nil)
		delete(object.GetAnnotations(), corev1.LastAppliedConfigAnnotation)
	}
	return o, nil
}

// equipment is what the kinds of claims need beside the API.
type equipment struct {
	Backends   map[string]backend.Backend
	Servers    *postgres.Servers
	Board      *switchboard.Board // nil without a switchboard
	PostgreSQL string             // folder with <major>/bin/pg_dump; empty moves no database
}

// addControllers wires the kinds of claims to mgr.
func addControllers(ctx context.Context, mgr ctrl.Manager, e equipment) error {
	cluster, err := clusterID(ctx, mgr.GetAPIReader())
	if err != nil {
		return err
	}
	finder := backend.Finder{Backends: e.Backends, Live: mgr.GetAPIReader()}
	keeper := &credential.Keeper{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Clock: clock.RealClock{}}
	if e.Board != nil {
		keeper.Readers = e.Board
	}
	means := backend.Means{Client: mgr.GetClient(), Finder: finder, Clock: clock.RealClock{}, Servers: e.Servers, Keeper: keeper, Cluster: cluster}
	claims := &claim.Worker{Means: means}
	if err := claims.SetUp(ctx, mgr, workers); err != nil {
		return fmt.Errorf("setting up claims: %w", err)
	}
	roles := &role.Worker{Means: means}
	if err := roles.SetUp(ctx, mgr, workers); err != nil {
		return fmt.Errorf("setting up roles: %w", err)
	}
	if err := addMigrations(ctx, mgr, means, e.Board, e.PostgreSQL); err != nil {
		return err
	}
	return mgr.Add(&claim.Sweeper{Worker: claims, Interval: sweepInterval, Log: slog.Default()})
}

// clusterID tells this cluster from others that use the same servers.
func clusterID(ctx context.Context, r client.Reader) (string, error) {
	namespace := &corev1.Namespace{}
	if err := r.Get(ctx, client.ObjectKey{Name: "kube-system"}, namespace); err != nil {
		return "", fmt.Errorf("reading namespace kube-system, whose UID names the cluster: %w", err)
	}
	return string(namespace.UID), nil
}

func newServers() *postgres.Servers {
	return postgres.NewServers(postgres.Limits{Connections: serverConcurrency, Concurrency: serverConcurrency})
}
