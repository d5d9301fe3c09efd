package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/step"
)

// GetCmd shows claims as trees.
type GetCmd struct {
	Name    string        `arg:"" optional:"" help:"Claim, or RoleClaim; without it, all of the namespace." complete:"claims"`
	Watch   bool          `short:"w" help:"Follow the changes until all is Ready."`
	Timeout time.Duration `help:"With --watch, give up after this long; 0 never does." default:"0s"`
}

// Help shows uses.
func (GetCmd) Help() string {
	return "Each condition that does not hold is shown with its cause, since when, and whether waiting helps.\n\n" +
		"  berth get                 all claims of the namespace, and the classes\n" +
		"  berth get -w orders       wait until orders is Ready\n" +
		"  berth get -A -o yaml      everything, as YAML"
}

// Run shows the claims, with --watch once they are Ready.
func (c *GetCmd) Run(ctx context.Context, g *Globals) error {
	d, err := g.desk()
	if err != nil {
		return err
	}
	return explained(interrupted(ctx, c.run(ctx, d)))
}

func (c *GetCmd) run(ctx context.Context, d *desk) error {
	if c.Name != "" && d.all {
		return errors.New("a name is of one namespace; use -n NAMESPACE instead of -A")
	}
	if c.Watch {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		changed := changes(ctx, d.api, []client.ListOption{d.within()}, &v1alpha1.DatabaseClaimList{}, &v1alpha1.RoleClaimList{})
		if err := d.await(ctx, c.Timeout, changed, func(ctx context.Context) (string, bool, error) { return c.look(ctx, d) }); err != nil {
			return err
		}
	}
	v, err := c.view(ctx, d)
	if err != nil {
		return err
	}
	if d.format != asTable {
		return d.printList(d.api.Scheme(), v.objects(), d.format)
	}
	return d.printView(v)
}

func (c *GetCmd) view(ctx context.Context, d *desk) (*view, error) {
	if c.Name == "" {
		return d.viewAll(ctx)
	}
	return d.viewOne(ctx, c.Name)
}

func (c *GetCmd) look(ctx context.Context, d *desk) (seen string, done bool, err error) {
	v, err := c.view(ctx, d)
	if err != nil {
		return "", false, err
	}
	objects := v.objects()
	var first step.Object
	waiting := 0
	for _, o := range objects {
		if o := o.(step.Object); summary(o) != "" {
			if first == nil {
				first = o
			}
			waiting++
		}
	}
	if first == nil {
		return "", true, nil
	}
	seen = first.GetName() + ": " + summary(first)
	if stalled(first) {
		seen += " (waiting does not help)"
	}
	if waiting > 1 {
		seen = fmt.Sprintf("%d of %d are not Ready; %s", waiting, len(objects), seen)
	}
	return seen, false, nil
}

func (d *desk) printView(v *view) error {
	for _, tree := range (describer{v, d.terminal, d.now()}).trees() {
		if err := d.printTree(tree); err != nil {
			return err
		}
	}
	if len(v.claims)+len(v.roles) > 0 {
		return nil
	}
	where := "in any namespace; docs/commands.md shows a first one"
	if !d.all {
		where = "in namespace " + d.namespace + "; berth get -A lists all"
	}
	_, err := fmt.Fprintf(d.out, "There is no claim %s.\n", where)
	return err
}
