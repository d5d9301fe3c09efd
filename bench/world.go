package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/backend/local"
	"github.com/berth-dev/berth/deploy"
	"github.com/berth-dev/berth/dev"
	"github.com/berth-dev/berth/postgres"
)

const (
	namespace = "bench"
	class     = "bench"
	serverID  = "bench"
	// startTimeout bounds the start of any one program.
	startTimeout = 2 * time.Minute
)

// world is an empty cluster and an empty PostgreSQL server, for one row.
type world struct {
	client client.WithWatch
	admin  postgres.Target // a superuser

	bench   *bench
	dir     string
	plane   *dev.ControlPlane
	servers *local.Backend
	fail    context.CancelCauseFunc
}

// newWorld starts one. The context it returns ends, with the cause, when a
// program of it dies; close stops all and removes every trace.
func newWorld(ctx context.Context, b *bench) (context.Context, *world, error) {
	ctrl.SetLogger(logr.Discard()) // or controller-runtime complains, with a stack
	ctx, fail := context.WithCancelCause(ctx)
	w := &world{bench: b, fail: fail}
	if err := w.start(ctx); err != nil {
		return nil, nil, errors.Join(err, w.close())
	}
	go func() {
		select {
		case <-w.plane.Done():
			fail(w.plane.Err())
		case <-ctx.Done():
		}
	}()
	return ctx, w, nil
}

func (w *world) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := w.makeDir()
	if err != nil {
		return err
	}
	w.plane, err = dev.StartControlPlane(ctx, dev.Options{
		Dir: filepath.Join(w.dir, "control-plane"), Bin: filepath.Join(w.bench.root, "bin", "k8s")})
	if err != nil {
		return err
	}
	if err := dev.InstallCRDs(ctx, w.plane.Config(), deploy.Files); err != nil {
		return err
	}
	if err := w.plane.WriteKubeconfig(w.kubeconfig()); err != nil {
		return err
	}
	if err := w.connect(ctx); err != nil {
		return err
	}
	return w.startPostgres(ctx)
}

func (w *world) makeDir() (err error) {
	if w.dir, err = os.MkdirTemp(w.bench.dir, "berth-bench-"); err != nil {
		return fmt.Errorf("making folder: %w", err)
	}
	// The account of PostgreSQL passes through it.
	if err := os.Chmod(w.dir, 0o711); err != nil {
		return fmt.Errorf("opening folder: %w", err)
	}
	return nil
}

func (w *world) kubeconfig() string { return filepath.Join(w.dir, "kubeconfig") }

func (w *world) connect(ctx context.Context) error {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return fmt.Errorf("registering kinds: %w", err)
	}
	var err error
	if w.client, err = client.NewWithWatch(w.plane.Config(), client.Options{Scheme: scheme}); err != nil {
		return fmt.Errorf("making client: %w", err)
	}
	home := &corev1.Namespace{}
	home.Name = namespace
	if err := w.client.Create(ctx, home); err != nil {
		return fmt.Errorf("making namespace: %w", err)
	}
	return nil
}

// startPostgres runs a server as berth's backend local sets it up: an
// acknowledged write is on the disk.
func (w *world) startPostgres(ctx context.Context) error {
	var err error
	w.servers, err = local.New(local.Options{
		Dir: filepath.Join(w.dir, "servers"), Bin: filepath.Join(w.bench.root, "bin", "pg"),
		Settings: map[string]string{"log_line_prefix": "%m %a@%d "},
	})
	if err != nil {
		return err
	}
	want := backend.Server{ID: serverID, Class: &v1alpha1.DatabaseClass{Spec: v1alpha1.DatabaseClassSpec{Backend: "local", DBVersion: major}}}
	if err := w.servers.Apply(ctx, want); err != nil {
		return err
	}
	return until(ctx, func() (bool, error) {
		found, err := w.servers.Observe(ctx, want)
		if err == nil && found.Permanent {
			err = errors.New(found.Message)
		}
		w.admin = found.Admin
		return found.Usable, err
	})
}

// serverLog is where the server writes its log.
func (w *world) serverLog() string { return filepath.Join(w.dir, "servers", serverID, "log") }

func (w *world) close() error {
	w.fail(context.Canceled)
	var failures []error
	if w.servers != nil {
		failures = append(failures, w.servers.Close())
	}
	if w.plane != nil {
		failures = append(failures, w.plane.Stop())
	}
	if w.dir != "" {
		failures = append(failures, os.RemoveAll(w.dir))
	}
	return errors.Join(failures...)
}

// makeClass makes a class on the server that admin administers.
func (w *world) makeClass(ctx context.Context, name string, admin postgres.Target, change func(*v1alpha1.DatabaseClassSpec)) error {
	secret := &corev1.Secret{StringData: map[string]string{"uri_dsn.txt": admin.URI()}}
	secret.Namespace, secret.Name = namespace, "administrator-of-"+name
	made := &v1alpha1.DatabaseClass{Spec: v1alpha1.DatabaseClassSpec{
		Backend: "existing", SSLMode: "disable",
		Server: &v1alpha1.ServerAccess{SecretRef: v1alpha1.SecretReference{Namespace: secret.Namespace, Name: secret.Name}},
	}}
	made.Name = name
	if change != nil {
		change(&made.Spec)
	}
	if err := errors.Join(w.client.Create(ctx, secret), w.client.Create(ctx, made)); err != nil {
		return fmt.Errorf("making class %s: %w", name, err)
	}
	return nil
}

func newClaim(name string) *v1alpha1.DatabaseClaim {
	c := &v1alpha1.DatabaseClaim{Spec: v1alpha1.DatabaseClaimSpec{Class: class}}
	c.Namespace, c.Name = namespace, name
	return c
}

func ready(conditions []metav1.Condition) bool {
	return meta.IsStatusConditionTrue(conditions, v1alpha1.Ready)
}

// removeClaims deletes every claim, and returns when they and their databases
// are gone; the class must have no undo window.
func (w *world) removeClaims(ctx context.Context) error {
	if err := w.client.DeleteAllOf(ctx, &v1alpha1.DatabaseClaim{}, client.InNamespace(namespace)); err != nil {
		return fmt.Errorf("deleting claims: %w", err)
	}
	return until(ctx, func() (bool, error) {
		left := &v1alpha1.DatabaseClaimList{}
		err := w.client.List(ctx, left, client.InNamespace(namespace), client.Limit(1))
		return len(left.Items) == 0, err
	})
}

// until asks holds every 100 ms until it is true or fails, or ctx ends.
func until(ctx context.Context, holds func() (bool, error)) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if held, err := holds(); held || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
