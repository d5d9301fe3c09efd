package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/backend/existing"
	"github.com/berth-dev/berth/backend/local"
	"github.com/berth-dev/berth/deploy"
	"github.com/berth-dev/berth/dev"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/warehouse/duckling"
)

// DevCmd runs everything on this machine.
type DevCmd struct {
	APIAddress     string `help:"Where the REST API answers; 0 for nowhere." default:"127.0.0.1:8080"`
	MetricsAddress string `help:"Where Prometheus finds the metrics." default:"127.0.0.1:9090"`
	Bin            string `help:"Folder with k8s/ and pg/, as made by 'make tools'; default: where berth is." type:"path"`

	DirectFlags
	Worker []string `help:"ServiceAccount that may activate warehouses, as namespace/name." placeholder:"NAME"`
}

// Help shows the next step.
func (DevCmd) Help() string {
	return "It keeps its state in --data and finds it again. In another terminal:\n\n" +
		"  export KUBECONFIG=.berth/kubeconfig\n  kubectl apply -f docs/examples/claim.yaml\n  berth get\n  berth psql orders"
}

// Run starts everything, says when it is up, and stops it when ctx ends.
func (c *DevCmd) Run(ctx context.Context, g *Globals) error {
	return c.run(ctx, g.Data, os.Stdout, nil)
}

// run calls ready, if there is one, once all is up, and ends when that returns.
func (c *DevCmd) run(ctx context.Context, data string, out io.Writer, ready func(context.Context, *rest.Config) error) (err error) {
	bin, err := c.bin()
	if err != nil {
		return err
	}
	began := time.Now()
	progress := func(what string) { fmt.Fprintf(out, "%5.1f s  %s\n", time.Since(began).Seconds(), what) }
	plane, err := dev.StartControlPlane(ctx, dev.Options{Dir: filepath.Join(data, "control-plane"), Bin: filepath.Join(bin, "k8s"), Progress: progress})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plane.Stop()) }()
	log, err := openLog(data)
	if err != nil {
		return err
	}
	defer log.Close()
	servers, err := newLocal(filepath.Join(data, "servers"), filepath.Join(bin, "pg"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, servers.Close()) }()

	servers.Resume()
	progress("installing kinds and classes")
	if err := prepare(ctx, plane.Config()); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	controllers, served := make(chan error, 1), make(chan struct{})
	go func() {
		err := c.control(ctx, plane.Config(), servers, data, func() { close(served) })
		stop(err)
		controllers <- err
	}()
	go func() {
		select {
		case <-plane.Done():
			stop(plane.Err())
		case <-ctx.Done():
		}
	}()
	progress("starting PostgreSQL")
	err = c.serve(ctx, plane, data, out, served, ready)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	stop(nil)
	return errors.Join(err, <-controllers)
}

// serve waits for the API and the class default, tells, and stays until ctx or ready ends.
func (c *DevCmd) serve(ctx context.Context, plane *dev.ControlPlane, data string, out io.Writer, served <-chan struct{}, ready func(context.Context, *rest.Config) error) error {
	api, err := newClient(plane.Config())
	if err != nil {
		return err
	}
	if err := awaitClass(ctx, api, "default"); err != nil {
		return ignoreEnd(ctx, err)
	}
	select {
	case <-served:
	case <-ctx.Done():
		return nil
	}
	kubeconfig := filepath.Join(data, "kubeconfig")
	if err := plane.WriteKubeconfig(kubeconfig); err != nil {
		return err
	}
	fmt.Fprintf(out, "export KUBECONFIG=%s\n", kubeconfig)
	fmt.Fprintln(out, "berth dev is ready")
	if ready != nil {
		return ready(ctx, plane.Config())
	}
	<-ctx.Done()
	fmt.Fprintln(out, "stopping")
	return nil
}

// control runs all controllers and the API, and calls served once that answers.
func (c *DevCmd) control(ctx context.Context, config *rest.Config, local *local.Backend, data string, served func()) error {
	mgr, err := newManager(config, settings{Metrics: c.MetricsAddress, Health: "0"})
	if err != nil {
		return err
	}
	bin, err := c.bin()
	if err != nil {
		return err
	}
	pools := newServers()
	defer pools.Close()
	backends := map[string]backend.Backend{"existing": existing.New(mgr.GetAPIReader()), "local": local}
	board, err := SwitchboardFlags{SwitchboardAddress: "127.0.0.1:0"}.add(mgr, config)
	if err != nil {
		return err
	}
	if err := addControllers(ctx, mgr, equipment{backends, pools, board, filepath.Join(bin, "pg")}); err != nil {
		return ignoreEnd(ctx, err)
	}
	warehouses := WarehouseFlags{CompositeFlags: devComposites, DirectFlags: c.DirectFlags, DucklingExtras: "{}"}
	if err := warehouses.add(ctx, mgr); err != nil {
		return ignoreEnd(ctx, err)
	}
	if err := addWebhook(ctx, mgr, config); err != nil {
		return ignoreEnd(ctx, err)
	}
	if err := c.addAPI(mgr, data, served); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

// ignoreEnd drops the errors of work that was told to stop.
func ignoreEnd(ctx context.Context, err error) error {
	select {
	case <-ctx.Done():
		return nil
	default:
		return err
	}
}

// openLog sends what the controllers log to a file, so that the terminal keeps
// to what a person waits for.
func openLog(data string) (*os.File, error) {
	log, err := os.OpenFile(filepath.Join(data, "berth.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(log, nil)))
	return log, nil
}

//go:embed dev-classes.yaml
var devClasses []byte

// prepare installs the kinds, and the two classes unless they are there.
func prepare(ctx context.Context, config *rest.Config) error {
	if err := dev.InstallCRDs(ctx, config, deploy.Files); err != nil {
		return err
	}
	c, err := newClient(config)
	if err != nil {
		return err
	}
	for _, name := range []string{naming.WarehouseNamespace, duckling.Namespace} {
		if err := client.IgnoreAlreadyExists(c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})); err != nil {
			return fmt.Errorf("making namespace %s: %w", name, err)
		}
	}
	list := v1alpha1.DatabaseClassList{}
	if err := yaml.UnmarshalStrict(devClasses, &list); err != nil {
		return fmt.Errorf("reading classes: %w", err)
	}
	for i := range list.Items {
		if err := client.IgnoreAlreadyExists(c.Create(ctx, &list.Items[i])); err != nil {
			return fmt.Errorf("making class %s: %w", list.Items[i].Name, err)
		}
	}
	return nil
}

func newClient(config *rest.Config) (client.Client, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: scheme})
}

// awaitClass returns once the class is Ready, or with the reason why it cannot be.
func awaitClass(ctx context.Context, api client.Reader, name string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		class := &v1alpha1.DatabaseClass{}
		if err := api.Get(ctx, client.ObjectKey{Name: name}, class); err != nil {
			return fmt.Errorf("reading class %s: %w", name, err)
		}
		ready := meta.FindStatusCondition(class.Status.Conditions, v1alpha1.Ready)
		if ready != nil && ready.Status == "True" {
			return nil
		}
		if meta.IsStatusConditionTrue(class.Status.Conditions, "Stalled") {
			return fmt.Errorf("class %s: %s", name, ready.Message)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (c *DevCmd) bin() (string, error) {
	if c.Bin != "" {
		return c.Bin, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding the folder of berth: %w", err)
	}
	return filepath.Dir(self), nil
}
