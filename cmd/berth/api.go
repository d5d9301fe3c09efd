package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/berth-dev/berth/cloud"
	berthrest "github.com/berth-dev/berth/rest"
)

// APIFlags say what the API tells and hands out.
type APIFlags struct {
	WarehouseHost string   `help:"Host that users of a warehouse connect to." default:"localhost" placeholder:"HOST"`
	WarehousePort int      `help:"Port that users of a warehouse connect to." default:"5432" placeholder:"PORT"`
	BucketSuffix  string   `help:"Name each new bucket posthog-duckling-<org>-<suffix>; default: the provider names it." env:"DUCKGRES_DUCKLING_BUCKET_SUFFIX" placeholder:"SUFFIX"`
	Worker        []string `help:"ServiceAccount that may activate, as namespace/name." placeholder:"NAME"`

	AWSRegion       string        `name:"aws-region" help:"Region to assume warehouses' roles in; without it workers use their own identity." env:"BERTH_AWS_REGION,DUCKGRES_AWS_REGION" placeholder:"REGION"`
	STSEndpoint     string        `name:"sts-endpoint" help:"Security token service other than AWS's." placeholder:"URL"`
	SessionDuration time.Duration `help:"Life of the credentials handed out, 15m to 1h." default:"1h" env:"BERTH_STS_SESSION_DURATION,DUCKGRES_STS_SESSION_DURATION"`
}

// APICmd serves the REST API of a cluster until it is told to stop.
type APICmd struct {
	APIAddress     string `name:"api-address" help:"Where it answers." default:"127.0.0.1:8080" placeholder:"ADDRESS"`
	MetricsAddress string `help:"Where Prometheus finds the metrics; 0 for nowhere." default:"127.0.0.1:9090" placeholder:"ADDRESS"`
	TLSCertificate string `name:"tls-certificate" help:"Certificate, as PEM; without it the API speaks HTTP." type:"path" placeholder:"FILE"`
	TLSKey         string `name:"tls-key" help:"Its key." type:"path" placeholder:"FILE"`
	CompositeFlags
	APIFlags
}

// Help says where the secrets come from.
func (APICmd) Help() string {
	return "The accepted secret is BERTH_INTERNAL_SECRET; further ones, for rotation, are in BERTH_INTERNAL_SECRET_FALLBACKS, separated by commas; " +
		"BERTH_READ_ONLY_SECRET may only read. The names with DUCKGRES in place of BERTH work too."
}

// Run serves until ctx ends.
func (c *APICmd) Run(ctx context.Context, g *Globals) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	config, err := g.Config()
	if err != nil {
		return err
	}
	config = rest.CopyConfig(config)
	config.QPS = -1
	scheme, err := newScheme()
	if err != nil {
		return err
	}
	live, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("connecting to the cluster: %w", err)
	}
	objects, err := cache.New(config, cache.Options{Scheme: scheme, DefaultTransform: slim})
	if err != nil {
		return fmt.Errorf("preparing the cache: %w", err)
	}
	metrics, err := server.NewServer(server.Options{BindAddress: c.MetricsAddress}, config, http.DefaultClient)
	if err != nil {
		return fmt.Errorf("preparing the metrics: %w", err)
	}
	work := []func(context.Context) error{objects.Start, func(ctx context.Context) error {
		return c.serve(ctx, berthrest.Options{Live: live, Cache: objects, Secrets: apiSecrets(os.Getenv), Log: log}, c.CompositeFlags, c.APIAddress, c.TLSCertificate, c.TLSKey, func() {})
	}}
	if metrics != nil {
		work = append(work, metrics.Start)
	}
	return together(ctx, work)
}

// together runs all of work until ctx or the first of it ends.
func together(ctx context.Context, work []func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, len(work))
	for _, f := range work {
		go func() { ended <- f(ctx) }()
	}
	var all error
	for range work {
		all = errors.Join(all, <-ended)
		stop()
	}
	return all
}

// serve answers at address until ctx ends, and calls ready once it does.
func (f APIFlags) serve(ctx context.Context, o berthrest.Options, composite CompositeFlags, address, certificate, key string, ready func()) error {
	kind, err := composite.kind()
	if err != nil {
		return err
	}
	o.Composite, o.CompositeNamespace, o.Namespace = kind, composite.DucklingNamespace, composite.OrgNamespace
	o.Host, o.Port, o.BucketSuffix, o.Workers = f.WarehouseHost, f.WarehousePort, f.BucketSuffix, f.Worker
	if f.AWSRegion != "" {
		assume, err := cloud.Service{Region: f.AWSRegion, Endpoint: f.STSEndpoint}.AssumeRole(ctx)
		if err != nil {
			return err
		}
		o.Broker = cloud.New(cloud.Options{Assume: assume, Duration: f.SessionDuration})
	}
	handler, err := berthrest.New(ctx, o)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listening for the API: %w", err)
	}
	s := &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }, // streams of events end with it
		ErrorLog:    slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() {
		if certificate != "" {
			ended <- s.ServeTLS(listener, certificate, key)
		} else {
			ended <- s.Serve(listener)
		}
	}()
	ready()
	select {
	case err := <-ended:
		return fmt.Errorf("serving the API: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return s.Shutdown(grace)
}

// apiSecrets reads the accepted secrets from the environment, by both families of names.
func apiSecrets(env func(string) string) berthrest.Secrets {
	s := berthrest.Secrets{ReadOnly: cmp.Or(env("BERTH_READ_ONLY_SECRET"), env("DUCKGRES_READ_ONLY_SECRET"))}
	for _, family := range []string{"BERTH", "DUCKGRES"} {
		if secret := env(family + "_INTERNAL_SECRET"); secret != "" {
			s.Internal = append(s.Internal, secret)
		}
	}
	for _, family := range []string{"BERTH", "DUCKGRES"} {
		for secret := range strings.SplitSeq(env(family+"_INTERNAL_SECRET_FALLBACKS"), ",") {
			if secret = strings.TrimSpace(secret); secret != "" {
				s.Internal = append(s.Internal, secret)
			}
		}
	}
	return s
}

// devSecrets are those of the environment, or one that is made once and kept in
// data, readable by its owner alone.
func devSecrets(data string) (berthrest.Secrets, error) {
	s := apiSecrets(os.Getenv)
	if len(s.Internal) > 0 {
		return s, nil
	}
	file := filepath.Join(data, "internal-secret")
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		bytes := make([]byte, 32)
		_, _ = rand.Read(bytes) // never fails
		text = []byte(hex.EncodeToString(bytes))
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		return s, fmt.Errorf("keeping the API's secret: %w", err)
	}
	s.Internal = []string{strings.TrimSpace(string(text))}
	return s, nil
}

// addAPI serves the API beside mgr's controllers, from their cache.
func (c *DevCmd) addAPI(mgr ctrl.Manager, data string, ready func()) error {
	if c.APIAddress == "0" {
		ready()
		return nil
	}
	secrets, err := devSecrets(data)
	if err != nil {
		return err
	}
	live, err := client.New(mgr.GetConfig(), client.Options{Scheme: mgr.GetScheme()})
	if err != nil {
		return fmt.Errorf("connecting to the cluster: %w", err)
	}
	f := APIFlags{WarehouseHost: "localhost", WarehousePort: 5432, Worker: c.Worker}
	if c.S3Endpoint != "" {
		f.AWSRegion, f.STSEndpoint = c.S3Region, c.S3Endpoint
	}
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		return f.serve(ctx, berthrest.Options{Live: live, Cache: mgr.GetCache(), Secrets: secrets, Log: slog.Default()}, devComposites, c.APIAddress, "", "", ready)
	}))
}
