package webhook

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// Namespace is where berth itself runs; pods there are never touched.
const Namespace = "berth-system"

// service is the name of the Service, and of the Secret with its certificates.
const service = "berth-webhook"

// Options say how to serve.
type Options struct {
	API      client.Client // without a cache
	Listener net.Listener  // closed at the end
	Image    string        // of the sidecars
	// Local has the API server call the listener's own address, and makes the
	// registration: for an API server on this machine.
	Local bool
	// CertificateFolder has tls.crt and tls.key that somebody else renews, who
	// then also writes the authority into the registration.
	CertificateFolder string
	Lifetimes         Lifetimes     // of our own certificates
	Interval          time.Duration // between two looks at them; zero is a minute
	Log               *slog.Logger
	Ready             func() // called once pods are answered for; may be nil
}

// Serve answers the API server until ctx ends, lets requests in flight finish,
// and returns nil. While its certificates cannot be renewed it says so in the
// log and goes on with those it has.
func Serve(ctx context.Context, o Options) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	keep, get, err := o.certificates()
	if err != nil {
		return errors.Join(err, o.Listener.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	hook, err := admission.StandaloneWebhook(&admission.Webhook{Handler: &Injector{API: o.API, Image: o.Image, Log: o.Log}},
		admission.StandaloneOptions{MetricsPath: Path})
	if err != nil {
		return errors.Join(fmt.Errorf("preparing webhook: %w", err), o.Listener.Close())
	}
	mux.Handle("POST "+Path, hook)
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: 90 * time.Second,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: get},
		ErrorLog:  slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), // handshakes that a port scan breaks off
	}
	served := make(chan error, 1)
	go func() {
		err := server.ServeTLS(o.Listener, "", "")
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		stop(err)
		served <- err
	}()
	keep(ctx)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(server.Shutdown(closing), <-served)
}

type getCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// certificates returns what keeps the certificates until its context ends, and
// what serves them.
func (o Options) certificates() (keep func(context.Context), get getCertificate, err error) {
	if o.CertificateFolder != "" {
		watcher, err := certwatcher.New(filepath.Join(o.CertificateFolder, "tls.crt"), filepath.Join(o.CertificateFolder, "tls.key"))
		if err != nil {
			return nil, nil, fmt.Errorf("reading certificate: %w", err)
		}
		return func(ctx context.Context) {
			o.ready()
			if err := watcher.Start(ctx); err != nil {
				o.Log.Error("watching certificate", "error", err)
			}
			<-ctx.Done()
		}, watcher.GetCertificate, nil
	}
	names := []string{service + "." + Namespace + ".svc", service + "." + Namespace + ".svc.cluster.local"}
	registration := Registration{API: o.API}
	if o.Local {
		host, _, err := net.SplitHostPort(o.Listener.Addr().String())
		if err != nil {
			return nil, nil, fmt.Errorf("reading address: %w", err)
		}
		names, registration.URL = []string{host}, "https://"+o.Listener.Addr().String()+Path
	}
	c := &Certificates{
		API: o.API, Secret: client.ObjectKey{Namespace: Namespace, Name: service}, Names: names,
		Lifetimes: o.Lifetimes, Log: o.Log, Publish: registration.Publish,
	}
	return func(ctx context.Context) { o.keep(ctx, c) }, c.Get, nil
}

func (o Options) keep(ctx context.Context, c *Certificates) {
	tick := time.NewTicker(cmp.Or(o.Interval, time.Minute))
	defer tick.Stop()
	answering := false
	first := time.NewTicker(250 * time.Millisecond) // until it has worked once
	defer first.Stop()
	for {
		if err := c.Refresh(ctx); err == nil {
			if !answering && (!o.Local || o.isAsked(ctx)) {
				answering = true
				first.Stop()
				o.ready()
			}
		} else if ctx.Err() == nil {
			o.Log.Error("keeping certificates", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-first.C:
		}
	}
}

// isAsked reports whether a pod comes back with its sidecar, by one that is not
// kept: the API server takes a moment to learn a registration, and until then
// calls the address of the one before.
func (o Options) isAsked(ctx context.Context) bool {
	pod := &corev1.Pod{}
	pod.Namespace, pod.GenerateName = "default", "berth-webhook-"
	pod.Labels = map[string]string{ownPrefix + claimKey: "berth-webhook", ownPrefix + proxyKey: enabled}
	pod.Spec.Containers = []corev1.Container{{Name: "app", Image: o.Image}}
	return o.API.Create(ctx, pod, client.DryRunAll) == nil && len(pod.Spec.InitContainers) > 0
}

func (o Options) ready() {
	if o.Ready != nil {
		o.Ready()
	}
}
