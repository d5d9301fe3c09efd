package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/step"
)

// RollbackCmd brings a claim's clients back to the server they came from.
type RollbackCmd struct {
	Name    string        `arg:"" help:"Claim." complete:"claims"`
	Timeout time.Duration `help:"Give up waiting after this long; it goes on. 0 never does." default:"0s"`
}

// Help says what it keeps.
func (RollbackCmd) Help() string {
	return "All that was written since the move is there too. Clients wait as long as for the move.\n\n  berth rollback orders"
}

// Run goes back, and waits until the clients are there.
func (c *RollbackCmd) Run(ctx context.Context, g *Globals) error {
	d, err := g.desk()
	if err != nil {
		return err
	}
	return explained(interrupted(ctx, c.run(ctx, d)))
}

func (c *RollbackCmd) run(ctx context.Context, d *desk) error {
	m, err := d.migration(ctx, c.Name)
	if err != nil {
		return err
	}
	if m == nil || m.Status.Serving != v1alpha1.SideTarget {
		return fmt.Errorf("claim %s has not been moved, or its migration is closed; there is nowhere to go back to", c.Name)
	}
	if err := d.change(ctx, m, func() { m.Spec.Serve = v1alpha1.SideSource }); err != nil {
		return err
	}
	return d.awaitServing(ctx, m, c.Timeout, v1alpha1.SideSource)
}

// migration is the one of claim that is not over; nil when there is none.
func (d *desk) migration(ctx context.Context, claim string) (*v1alpha1.Migration, error) {
	list, err := d.migrations(ctx, client.InNamespace(d.namespace))
	if err != nil {
		return nil, err
	}
	var found *v1alpha1.Migration
	for i := range list {
		if m := &list[i]; m.Spec.Claim == claim && (found == nil || m.Status.Name != "") {
			found = m
		}
	}
	return found, nil
}

// migrations are those that are not over. Who may not see them sees none, and
// so does a cluster of a version without them.
func (d *desk) migrations(ctx context.Context, within client.ListOption) ([]v1alpha1.Migration, error) {
	list := &v1alpha1.MigrationList{}
	err := d.api.List(ctx, list, within)
	switch {
	case apierrors.IsForbidden(err), meta.IsNoMatchError(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("listing Migrations: %w", err)
	}
	var open []v1alpha1.Migration
	for _, m := range list.Items {
		if !meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.Succeeded) {
			open = append(open, m)
		}
	}
	return open, nil
}

// change patches what wish changes in the newest m.
func (d *desk) change(ctx context.Context, m *v1alpha1.Migration, wish func()) error {
	before := m.DeepCopy()
	wish()
	if err := d.api.Patch(ctx, m, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("changing Migration %s: %w", m.Name, err)
	}
	return nil
}

// sure asks for word unless yes was said already.
func (d *desk) sure(yes bool, question, word, done string) error {
	if yes {
		return nil
	}
	if !d.asks {
		return errors.New("nobody is here to confirm it; add --yes")
	}
	agreed, err := d.confirm(question, word)
	if err == nil && !agreed {
		err = fmt.Errorf("nothing was %s: the name was not typed", done)
	}
	return err
}

// awaitServing waits until side has the clients, and tells what that cost.
func (d *desk) awaitServing(ctx context.Context, m *v1alpha1.Migration, timeout time.Duration, side string) error {
	if err := d.awaitMigration(ctx, m, timeout, func() bool { return m.Status.Serving == side }); err != nil {
		return err
	}
	if d.format != asTable {
		return d.printList(d.api.Scheme(), []client.Object{m}, d.format)
	}
	text := fmt.Sprintf("Claim %s is on PostgreSQL %s.", m.Spec.Claim, sideOf(m).Version)
	if n := len(m.Status.Switches); n > 0 {
		last := m.Status.Switches[n-1]
		text += fmt.Sprintf(" Clients waited for at most %d ms; %d sessions past the proxies were ended.", last.PauseMS, last.Ended)
	}
	_, err := fmt.Fprintln(d.out, printable(text))
	return err
}

func sideOf(m *v1alpha1.Migration) *v1alpha1.ServerStatus {
	if m.Status.Serving == v1alpha1.SideTarget {
		return m.Status.Target
	}
	return m.Status.Source
}

// awaitMigration waits until done, reading m anew each time. It ends early
// when waiting does not help.
func (d *desk) awaitMigration(ctx context.Context, m *v1alpha1.Migration, timeout time.Duration, done func() bool) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	changed := changes(ctx, d.api, []client.ListOption{client.InNamespace(m.Namespace), client.MatchingFields{"metadata.name": m.Name}}, &v1alpha1.MigrationList{})
	return d.await(ctx, timeout, changed, func(ctx context.Context) (string, bool, error) {
		if err := d.api.Get(ctx, client.ObjectKeyFromObject(m), m); err != nil {
			return "", false, fmt.Errorf("reading Migration %s: %w", m.Name, err)
		}
		at := standing(m)
		switch {
		case done():
			return "", true, nil
		case stalled(m):
			return "", false, fmt.Errorf("%s: %s; deleting it takes all back", title("Migration", m), at)
		}
		return at, false, nil
	})
}

// standing is where a migration is, in one line.
func standing(m *v1alpha1.Migration) string {
	for _, c := range m.Status.Conditions {
		if c.Status == metav1.ConditionFalse && c.Type != v1alpha1.Succeeded && c.Type != step.Stalled {
			text := fmt.Sprintf("%s %s: %s", c.Type, c.Reason, c.Message)
			if c.Type == v1alpha1.RowsCopied && m.Status.Progress != nil {
				text += " " + m.Status.Progress.Text + "."
			}
			return printable(text)
		}
	}
	return "waiting for the controller"
}
