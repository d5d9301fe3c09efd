// Package world runs berth's controllers in a test, against a real API server
// and real PostgreSQL. Each world watches one namespace and ends with its test.
//
// It is apart from testkit because it imports the kinds: only tests in an
// external package, such as claim_test, can use it.
package world

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/backend/existing"
	"github.com/berth-dev/berth/claim"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/role"
)

// World is a namespace with a class on a server, and controllers that keep it.
type World struct {
	client.Client // an administrator's, not cached
	Namespace     string
	Class         *v1alpha1.DatabaseClass
	Server        *testkit.PostgresServer
	Sweeper       *claim.Sweeper
	Options       Options

	t       testing.TB
	cluster string
}

// Options change what a world is made of; nil and zero mean the default.
type Options struct {
	Server *testkit.PostgresServer // PostgreSQL 15 that the test process shares
	Admin  *postgres.Target        // the administrator berth uses; a superuser
	Clock  clock.PassiveClock
	Class  func(*v1alpha1.DatabaseClassSpec) // changes the class before it is made
	// Backends beside existing.
	Backends map[string]backend.Backend
	// Transport wraps the controllers' way to the API server.
	Transport func(http.RoundTripper) http.RoundTripper
	// Also are namespaces that the controllers watch beside the world's own.
	Also []string
	// Limits of the controllers on each server.
	Limits postgres.Limits
	// Log receives what the controllers say; nil drops it.
	Log *slog.Logger
	// Readers of the credentials; nil when none report.
	Readers credential.Readers
	// Idle makes a world whose controllers the test starts by itself, with Run.
	Idle bool
}

// New makes a world whose controllers run until the test ends.
func New(t testing.TB, o Options) *World {
	t.Helper()
	if o.Server == nil {
		o.Server = testkit.Postgres(t, 15)
	}
	if o.Admin == nil {
		o.Admin = ptr.To(o.Server.Target())
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	w := &World{Client: testkit.Client(t, Scheme()), Namespace: testkit.Namespace(t), Server: o.Server, Options: o, t: t}
	w.cluster = "test-" + w.Namespace
	w.Class = w.MakeClass(w.Namespace, *o.Admin, o.Class)
	if !o.Idle {
		w.Run(t.Context())
	}
	return w
}

// Scheme knows Kubernetes' own kinds and berth's.
func Scheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		panic(err)
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	return scheme
}

// worldLabel marks the classes of a world, which belong to no namespace.
const worldLabel = "testkit.berth.dev/world"

// MakeClass makes a class on the server that admin administers; a nil change
// leaves it as it is. Classes of the whole cluster need unlike names, such as
// ones that begin with the world's namespace.
func (w *World) MakeClass(name string, admin postgres.Target, change func(*v1alpha1.DatabaseClassSpec)) *v1alpha1.DatabaseClass {
	w.t.Helper()
	secret := &corev1.Secret{StringData: map[string]string{"uri_dsn.txt": admin.URI(), "ca.crt": string(admin.RootCA)}}
	secret.Namespace, secret.Name = w.Namespace, "administrator"
	if name != w.Namespace {
		secret.Name += "-" + name
	}
	w.Make(secret)
	class := &v1alpha1.DatabaseClass{Spec: v1alpha1.DatabaseClassSpec{
		Backend: "existing", SSLMode: "disable",
		Server: &v1alpha1.ServerAccess{SecretRef: v1alpha1.SecretReference{Namespace: w.Namespace, Name: secret.Name}},
	}}
	class.Name, class.Labels = name, map[string]string{worldLabel: w.Namespace}
	if change != nil {
		change(&class.Spec)
	}
	w.Make(class)
	return class
}

// Run starts controllers that end with ctx, or with the test. It returns a
// function that waits for their end.
func (w *World) Run(ctx context.Context) (stopped func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	mgr := w.manager()
	servers := postgres.NewServers(w.Options.Limits)
	w.wire(ctx, mgr, servers)
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	stopped = func() {
		cancel()
		if err, open := <-done; open {
			close(done)
			servers.Close()
			if err != nil {
				w.t.Errorf("controllers ended: %v", err)
			}
		}
	}
	w.t.Cleanup(stopped)
	return stopped
}

// quietly drops what controllers say outside of any manager.
var quietly = sync.OnceFunc(func() { ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(io.Discard, nil))) })

func (w *World) manager() ctrl.Manager {
	w.t.Helper()
	access := rest.CopyConfig(testkit.APIServer(w.t))
	access.QPS = -1
	if w.Options.Transport != nil {
		access.Wrap(w.Options.Transport)
	}
	watched := map[string]cache.Config{w.Namespace: {}}
	for _, namespace := range w.Options.Also {
		watched[namespace] = cache.Config{}
	}
	quietly()
	mgr, err := ctrl.NewManager(access, ctrl.Options{
		Scheme:     Scheme(),
		Logger:     logr.FromSlogHandler(w.Options.Log.Handler()),
		Controller: config.Controller{SkipNameValidation: ptr.To(true)},
		Metrics:    server.Options{BindAddress: "0"},
		Cache: cache.Options{
			DefaultNamespaces: watched,
			DefaultTransform:  cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Secret{}:          {Label: labels.SelectorFromSet(labels.Set{naming.ManagedByLabel: naming.ManagedBy})},
				&v1alpha1.DatabaseClass{}: {Label: labels.SelectorFromSet(labels.Set{worldLabel: w.Namespace})},
			},
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return mgr
}

func (w *World) wire(ctx context.Context, mgr ctrl.Manager, servers *postgres.Servers) {
	w.t.Helper()
	backends := map[string]backend.Backend{"existing": existing.New(mgr.GetAPIReader())}
	for name, b := range w.Options.Backends {
		backends[name] = b
	}
	finder := backend.Finder{Backends: backends, Live: mgr.GetAPIReader()}
	keeper := &credential.Keeper{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Clock: w.Options.Clock, Readers: w.Options.Readers}
	means := backend.Means{Client: mgr.GetClient(), Finder: finder, Clock: w.Options.Clock, Servers: servers, Keeper: keeper, Cluster: w.cluster}
	claims := &claim.Worker{Means: means}
	if err := claims.SetUp(ctx, mgr, 4); err != nil {
		w.t.Fatal(err)
	}
	roles := &role.Worker{Means: means}
	if err := roles.SetUp(ctx, mgr, 4); err != nil {
		w.t.Fatal(err)
	}
	w.Sweeper = &claim.Sweeper{Worker: claims, Interval: time.Hour, Log: w.Options.Log}
}
