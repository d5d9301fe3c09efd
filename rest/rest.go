// Package rest is the HTTP door: it turns requests into custom resources and
// custom resources into answers. It does none of the work it answers for, keeps
// no state beside the API server's, and never shows a secret but once: the
// password it has just made.
package rest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/cloud"
)

// Options of the API. Live and Cache, Secrets and Log are needed.
type Options struct {
	Live    client.Client // the API server itself: for writes, and for what decides one
	Cache   cache.Cache   // for reads; it has to be started
	Secrets Secrets
	Limits  Limits
	Log     *slog.Logger
	Clock   clock.PassiveClock

	Namespace string // of the organisations' Secrets
	// Host and Port are where users of a warehouse connect.
	Host string
	Port int
	// BucketSuffix names the bucket of each new warehouse here, instead of
	// letting its provider do so.
	BucketSuffix string
	// Composite is what provider duckling works by, and where.
	Composite          schema.GroupVersionKind
	CompositeNamespace string

	// Broker hands out credentials on activation; nil leaves them to the worker.
	Broker *cloud.Broker
	// Workers are the ServiceAccounts, as namespace/name, that may activate.
	Workers []string
}

// API serves.
type API struct {
	Options
	hub      *hub
	reviewed reviewed
}

const (
	prefix         = "/api/v1"
	requestTimeout = 10 * time.Second
)

// New is the handler of all routes. The caches it reads are watched until ctx ends.
func New(ctx context.Context, o Options) (http.Handler, error) {
	if err := o.Secrets.Check(); err != nil {
		return nil, err
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	watched, err := newHub(ctx, o.Cache)
	if err != nil {
		return nil, err
	}
	a := &API{Options: o, hub: watched, reviewed: reviewed{known: map[[sha256.Size]byte]review{}}}
	useProblems()
	mux := http.NewServeMux()
	config := huma.DefaultConfig("berth", "v1")
	config.CreateHooks = nil // no link to a schema in bodies
	config.DocsPath, config.SchemasPath = "", ""
	config.Info.Description = "Organisations and their warehouses. A mutation records intent; the controllers act."
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"secret": {Type: "apiKey", In: "header", Name: header}, "token": {Type: "http", Scheme: "bearer"},
	}
	config.Security = []map[string][]string{{"secret": {}}}
	routes := humago.New(mux, config)
	a.orgRoutes(routes)
	a.userRoutes(routes)
	a.warehouseRoutes(routes)
	a.progressRoutes(routes)
	a.pages(mux, routes.OpenAPI())
	d := &door{
		secrets: o.Secrets, now: o.Clock.Now, log: o.Log, inside: http.NewCrossOriginProtection().Handler(mux),
		requests: newLimiter(o.Limits.Requests, 2000), failures: newLimiter(o.Limits.Failures, 2),
	}
	return d, nil
}

// route adds an operation whose errors all go through explain.
func route[I, O any](api huma.API, method, path, summary string, status int, handle func(context.Context, *I) (*O, error), also ...func(*huma.Operation)) {
	op := huma.Operation{
		OperationID: huma.GenerateOperationID(method, path, new(O)), Method: method, Path: prefix + path, Summary: summary,
		DefaultStatus: status, MaxBodyBytes: bodyLimit,
	}
	for _, f := range also {
		f(&op)
	}
	huma.Register(api, op, func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		out, err := handle(ctx, in)
		if err != nil {
			return nil, explain(err)
		}
		return out, nil
	})
}

// OrgPath is the id that most routes have.
type OrgPath struct {
	ID string `path:"id" pattern:"^([a-z0-9]([-a-z0-9]{0,33}[a-z0-9])?|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$" doc:"The org's id"`
}

// Mutation is what every mutation takes beside its body.
type Mutation struct {
	DryRun bool `query:"dryRun" doc:"Validate, and change nothing"`
}

// writes are the options of a write on the API server.
func (m Mutation) create() []client.CreateOption {
	if m.DryRun {
		return []client.CreateOption{client.DryRunAll}
	}
	return nil
}

func (m Mutation) patch() []client.PatchOption {
	if m.DryRun {
		return []client.PatchOption{client.DryRunAll}
	}
	return nil
}

// attempts bounds how often a change is tried anew after a lost race.
const attempts = 5

var errRace = errors.New("the object keeps changing; try again")

// change reads the object, has decide change it, and writes the difference with
// the version it was read at; a lost race decides anew.
func change[T client.Object](ctx context.Context, a *API, m Mutation, o T, decide func(T) error) error {
	for range attempts {
		if err := a.Live.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		before := o.DeepCopyObject().(T)
		if err := decide(o); err != nil {
			return err
		}
		err := a.Live.Patch(ctx, o, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), m.patch()...)
		if !isRace(err) {
			return err
		}
	}
	return fmt.Errorf("changing %s: %w", o.GetName(), errRace)
}
