package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/berth-dev/berth/webhook"
)

// WebhookCmd answers a cluster's API server about pods until it is told to stop.
type WebhookCmd struct {
	Image             string `required:"" help:"Image of the sidecars, with berth-agent and pgbouncer." placeholder:"IMAGE"`
	Address           string `help:"Where the API server reaches it, and /healthz answers, by TLS." default:"127.0.0.1:9443"`
	CertificateFolder string `help:"Folder with tls.crt and tls.key of cert-manager; without it berth makes its own." type:"path" placeholder:"DIR"`
	MetricsAddress    string `help:"Where Prometheus finds the metrics; 0 for nowhere." default:"127.0.0.1:9090"`
}

// Help says what else it takes.
func (WebhookCmd) Help() string {
	return "The registration is deploy/webhook/configuration.yaml; it names the Service berth-webhook in berth-system."
}

// Run serves until ctx ends.
func (c *WebhookCmd) Run(ctx context.Context, g *Globals) error {
	config, err := g.Config()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	api, err := newClient(config)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Address)
	if err != nil {
		return fmt.Errorf("listening for the API server: %w", err)
	}
	metrics, err := server.NewServer(server.Options{BindAddress: c.MetricsAddress}, config, http.DefaultClient)
	if err != nil {
		return errors.Join(fmt.Errorf("preparing the metrics: %w", err), listener.Close())
	}
	if metrics == nil {
		return c.serve(ctx, api, listener, log)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	measured := make(chan error, 1)
	go func() {
		err := metrics.Start(ctx)
		stop(err)
		measured <- err
	}()
	err = c.serve(ctx, api, listener, log)
	stop(nil)
	return errors.Join(err, <-measured)
}

func (c *WebhookCmd) serve(ctx context.Context, api client.Client, listener net.Listener, log *slog.Logger) error {
	return webhook.Serve(ctx, webhook.Options{API: api, Listener: listener, Image: c.Image, CertificateFolder: c.CertificateFolder, Log: log})
}

// addWebhook serves the webhook beside mgr's controllers, and returns once pods
// are answered for: until then the API server may refuse them.
func addWebhook(ctx context.Context, mgr ctrl.Manager, config *rest.Config) error {
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- serveWebhook(ctx, config, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		return err
	}
	return mgr.Add(manager.RunnableFunc(func(context.Context) error { return <-ended }))
}

// serveWebhook answers the API server of this machine, by its address, and
// calls ready once it does.
func serveWebhook(ctx context.Context, config *rest.Config, ready func()) error {
	api, err := newClient(config)
	if err != nil {
		return err
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: webhook.Namespace}}
	if err := client.IgnoreAlreadyExists(api.Create(ctx, namespace)); err != nil {
		return fmt.Errorf("making namespace %s: %w", webhook.Namespace, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for the API server: %w", err)
	}
	return webhook.Serve(ctx, webhook.Options{
		API: api, Listener: listener, Image: devImage, Local: true, Log: slog.Default(), Ready: ready,
	})
}

// devImage is what pods of `berth dev` would run, if there were a node.
const devImage = "berth:development"
