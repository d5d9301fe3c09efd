package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/postgres/replication"
)

// MigrateCmd moves a claim's database to another PostgreSQL, or ends such a move.
type MigrateCmd struct {
	Name      string        `arg:"" help:"Claim." complete:"claims"`
	ToVersion string        `help:"PostgreSQL major version to move to." placeholder:"MAJOR" xor:"what" required:""`
	Close     bool          `help:"End the way back, and with it the server that was left." xor:"what" required:""`
	Preflight bool          `help:"Only say what is against the move, and take all back."`
	Yes       bool          `short:"y" help:"Do not ask."`
	Timeout   time.Duration `help:"Give up waiting after this long; the move goes on. 0 never does." default:"0s"`
}

// Help says what clients see of it.
func (MigrateCmd) Help() string {
	return "The database is copied while it is used; then clients wait for less than half a second and go on at the new server. " +
		"The old one follows until --close, and berth rollback goes back to it.\n\n" +
		"  berth migrate orders --to-version 17 --preflight\n  berth migrate orders --to-version 17\n  berth migrate orders --close"
}

// Run moves, and waits until the clients are there.
func (c *MigrateCmd) Run(ctx context.Context, g *Globals) error {
	d, err := g.desk()
	if err != nil {
		return err
	}
	return explained(interrupted(ctx, c.run(ctx, d)))
}

func (c *MigrateCmd) run(ctx context.Context, d *desk) error {
	if err := d.api.Get(ctx, client.ObjectKey{Namespace: d.namespace, Name: c.Name}, &v1alpha1.DatabaseClaim{}); err != nil {
		return absent(err, "DatabaseClaim", client.ObjectKey{Namespace: d.namespace, Name: c.Name})
	}
	m, err := d.migration(ctx, c.Name)
	if err != nil {
		return err
	}
	switch {
	case c.Close:
		return c.close(ctx, d, m)
	case m != nil && !m.DeletionTimestamp.IsZero():
		return fmt.Errorf("%s is being taken back; try again once it is gone", title("Migration", m))
	case m != nil && (c.Preflight || m.Spec.To.Version != c.ToVersion):
		return fmt.Errorf("%s moves the claim to PostgreSQL %s; close or delete it first", title("Migration", m), m.Spec.To.Version)
	case c.Preflight:
		return c.preflight(ctx, d)
	}
	return c.move(ctx, d, m)
}

func (c *MigrateCmd) move(ctx context.Context, d *desk, m *v1alpha1.Migration) error {
	question := fmt.Sprintf("Moving %s to PostgreSQL %s makes its clients wait for less than half a second, and ends sessions that go past a dbproxy.", c.Name, c.ToVersion)
	if err := d.sure(c.Yes, question, c.Name, "moved"); err != nil {
		return err
	}
	var err error
	if m == nil {
		m, err = c.begin(ctx, d, "Automatic")
	} else {
		err = d.change(ctx, m, func() { m.Spec.Serve, m.Spec.Approved = v1alpha1.SideTarget, true })
	}
	if err != nil {
		return err
	}
	return d.awaitServing(ctx, m, c.Timeout, v1alpha1.SideTarget)
}

func (c *MigrateCmd) begin(ctx context.Context, d *desk, approval string) (*v1alpha1.Migration, error) {
	m := &v1alpha1.Migration{Spec: v1alpha1.MigrationSpec{Claim: c.Name, To: v1alpha1.MigrationTarget{Version: c.ToVersion}, Approval: approval}}
	m.Namespace, m.GenerateName = d.namespace, c.Name+"-"+c.ToVersion+"-"
	if err := d.api.Create(ctx, m); err != nil {
		return nil, fmt.Errorf("making a Migration: %w", err)
	}
	return m, nil
}

// preflight begins a move that never switches, and takes it back once it is judged.
func (c *MigrateCmd) preflight(ctx context.Context, d *desk) (err error) {
	m, err := c.begin(ctx, d, "Manual")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.takeBack(ctx, d, m)) }()
	err = d.awaitMigration(ctx, m, c.Timeout, func() bool {
		return len(m.Status.Findings) > 0 || meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.PreflightPassed)
	})
	if err != nil {
		return err
	}
	return c.printFindings(d, m.Status.Findings)
}

// takeBack deletes m also for a person who does not wait any more.
func (c *MigrateCmd) takeBack(ctx context.Context, d *desk, m *v1alpha1.Migration) error {
	if err := client.IgnoreNotFound(d.api.Delete(context.WithoutCancel(ctx), m)); err != nil {
		return fmt.Errorf("deleting Migration %s: %w", m.Name, err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	changed := changes(ctx, d.api, []client.ListOption{client.InNamespace(m.Namespace), client.MatchingFields{"metadata.name": m.Name}}, &v1alpha1.MigrationList{})
	return d.await(ctx, c.Timeout, changed, func(ctx context.Context) (string, bool, error) {
		err := d.api.Get(ctx, client.ObjectKeyFromObject(m), m)
		return "taking it back", apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}

func (c *MigrateCmd) printFindings(d *desk, findings []v1alpha1.MigrationFinding) error {
	refused := 0
	var text strings.Builder
	for _, f := range findings {
		if f.Severity == replication.Refuses {
			refused++
		}
		fmt.Fprintf(&text, "%-8s %s  %s: %s\n", strings.ToLower(f.Severity), f.Code, f.Object, f.Message)
	}
	if refused == 0 {
		fmt.Fprintf(&text, "Nothing refuses the move of %s to PostgreSQL %s.\n", c.Name, c.ToVersion)
	}
	if _, err := fmt.Fprint(d.out, printableLines(text.String())); err != nil || refused == 0 {
		return err
	}
	return fmt.Errorf("%d of %d findings refuse the move; see what they ask for above", refused, len(findings))
}

func (c *MigrateCmd) close(ctx context.Context, d *desk, m *v1alpha1.Migration) error {
	if m == nil {
		return fmt.Errorf("nothing moves claim %s", c.Name)
	}
	if len(m.Status.Switches) == 0 {
		return fmt.Errorf("%s has not switched yet; deleting it takes it back", title("Migration", m))
	}
	question := fmt.Sprintf("Closing Migration %s leaves the %s alone with the database: there is no way back, and the other server goes if the class reclaims by Delete.", m.Name, strings.ToLower(m.Status.Serving))
	if err := d.sure(c.Yes, question, c.Name, "closed"); err != nil {
		return err
	}
	serving := m.Status.Serving
	if err := d.change(ctx, m, func() { m.Spec.Close, m.Spec.Serve = true, serving }); err != nil {
		return err
	}
	err := d.awaitMigration(ctx, m, c.Timeout, func() bool { return meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.Closed) })
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(d.out, "Migration %s is closed.\n", m.Name)
	return err
}
