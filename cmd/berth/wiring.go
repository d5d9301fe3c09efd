package main

import (
	"context"
	"fmt"
	"log/slog"
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
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/claim"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/role"
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

// listen are the addresses of a controller process; "0" is none.
type listen struct{ Metrics, Health string }

// newManager watches only Secrets that berth wrote, and keeps no managed fields.
func newManager(config *rest.Config, at listen, elect bool) (ctrl.Manager, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	ctrl.SetLogger(logr.FromSlogHandler(slog.Default().Handler()))
	config = rest.CopyConfig(config)
	config.QPS = -1 // the API server's own priority and fairness decides
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme,
		Cache: cache.Options{
			DefaultTransform: slim,
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Secret{}: {Label: labels.SelectorFromSet(labels.Set{naming.ManagedByLabel: naming.ManagedBy})},
			},
		},
		Metrics:                       server.Options{BindAddress: at.Metrics},
		HealthProbeBindAddress:        at.Health,
		LeaderElection:                elect,
		LeaderElectionID:              "controller.berth.dev",
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return nil, fmt.Errorf("preparing the controllers: %w", err)
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, err
	}
	return mgr, mgr.AddReadyzCheck("ping", healthz.Ping)
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

// addControllers wires every kind to mgr.
func addControllers(ctx context.Context, mgr ctrl.Manager, backends map[string]backend.Backend, servers *postgres.Servers) error {
	cluster, err := clusterID(ctx, mgr.GetAPIReader())
	if err != nil {
		return err
	}
	finder := backend.Finder{Backends: backends, Live: mgr.GetAPIReader()}
	keeper := &credential.Keeper{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Clock: clock.RealClock{}}
	means := backend.Means{Client: mgr.GetClient(), Finder: finder, Clock: clock.RealClock{}, Servers: servers, Keeper: keeper, Cluster: cluster}
	claims := &claim.Worker{Means: means}
	if err := claims.SetUp(ctx, mgr, workers); err != nil {
		return fmt.Errorf("setting up claims: %w", err)
	}
	roles := &role.Worker{Means: means}
	if err := roles.SetUp(ctx, mgr, workers); err != nil {
		return fmt.Errorf("setting up roles: %w", err)
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
