package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// DemoCmd is a tour that ends by itself.
type DemoCmd struct {
	Bin string `help:"Folder with k8s/ and pg/; default: where berth is." type:"path"`
}

// Help says what it leaves.
func (DemoCmd) Help() string {
	return "It uses a folder of its own that is removed at the end, and ends with 0 only if every step held."
}

// Run takes the tour.
func (c *DemoCmd) Run(ctx context.Context) (err error) {
	data, err := os.MkdirTemp("", "berth-demo-")
	if err != nil {
		return fmt.Errorf("making folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(data)) }()
	if err := os.Chmod(data, 0o711); err != nil { // PostgreSQL's account passes through it
		return fmt.Errorf("opening folder: %w", err)
	}
	d := DevCmd{APIAddress: "0", MetricsAddress: "0", Bin: c.Bin}
	return d.run(ctx, data, os.Stdout, func(ctx context.Context, config *rest.Config) error {
		bin, err := d.bin()
		if err != nil {
			return err
		}
		api, err := newClient(config)
		if err != nil {
			return err
		}
		t := &tour{api: api, out: os.Stdout, bin: bin, data: data}
		return t.take(ctx)
	})
}

// tour is the state of one walk through what berth does.
type tour struct {
	api   client.Client
	out   io.Writer
	bin   string // folder of the programs
	data  string // folder of all that runs
	claim *v1alpha1.DatabaseClaim
}

// take walks the stops in order; the first that does not hold ends it.
func (t *tour) take(ctx context.Context) error {
	for i, stop := range []struct {
		title string
		visit func(context.Context) error
	}{
		{"A class says what the platform offers, a claim asks for a database", t.declare},
		{"psql connects through the Secret", t.connect},
		{"The credential rotates under load", t.rotate},
		{"The same beside a dbproxy: connections stay open", t.rotateBeside},
		{"A deleted claim comes back within its undo window", t.undo},
		{"What it costs on this machine, beside the same SQL alone", t.measure},
	} {
		began := time.Now()
		t.say("\n%d. %s", i+1, stop.title)
		if err := stop.visit(ctx); err != nil {
			return fmt.Errorf("%s: %w", stop.title, err)
		}
		t.say("   held, in %.1f s", time.Since(began).Seconds())
	}
	t.say("\nEvery step held.")
	return nil
}

func (t *tour) say(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }

//go:embed demo-class.yaml
var demoClass []byte

//go:embed demo-claim.yaml
var demoClaim []byte

func (t *tour) declare(ctx context.Context) error {
	t.say("%s---\n%s", demoClass, demoClaim)
	class := &v1alpha1.DatabaseClass{}
	if err := yaml.UnmarshalStrict(demoClass, class); err != nil {
		return fmt.Errorf("reading the class: %w", err)
	}
	if err := t.api.Create(ctx, class); err != nil {
		return fmt.Errorf("making the class: %w", err)
	}
	if err := awaitClass(ctx, t.api, class.Name); err != nil {
		return err
	}
	began := time.Now()
	if err := t.apply(ctx); err != nil {
		return err
	}
	t.say("   Ready %d ms after it was applied: database %s, login %s", time.Since(began).Milliseconds(), t.claim.Status.Database, t.claim.Status.Credential.Login)
	return nil
}

// apply makes the tour's claim and waits until it is Ready.
func (t *tour) apply(ctx context.Context) error {
	t.claim = &v1alpha1.DatabaseClaim{}
	if err := yaml.UnmarshalStrict(demoClaim, t.claim); err != nil {
		return fmt.Errorf("reading the claim: %w", err)
	}
	if err := t.api.Create(ctx, t.claim); err != nil {
		return fmt.Errorf("making the claim: %w", err)
	}
	return t.await(ctx, func() bool { return isReady(t.claim) })
}

// await refreshes the claim until holds, or until a minute has passed.
func (t *tour) await(ctx context.Context, holds func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := t.api.Get(ctx, client.ObjectKeyFromObject(t.claim), t.claim); err != nil {
			return fmt.Errorf("reading the claim: %w", err)
		}
		if holds() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the claim: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func isReady(claim *v1alpha1.DatabaseClaim) bool {
	return meta.IsStatusConditionTrue(claim.Status.Conditions, v1alpha1.Ready)
}
