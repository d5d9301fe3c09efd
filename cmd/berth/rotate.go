package main

import (
	"context"
	"fmt"
	"time"

	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// RotateCmd replaces a credential now.
type RotateCmd struct {
	Name    string        `arg:"" help:"Claim." complete:"claims"`
	Role    bool          `help:"The name is a RoleClaim's."`
	Wait    bool          `help:"Wait until the new login is published." default:"true" negatable:""`
	Timeout time.Duration `help:"How long to wait." default:"2m"`
}

// Help says what a rotation does to clients.
func (RotateCmd) Help() string {
	return "No client fails: the previous login stays open until consumers have had the class's propagation time, and longer while it has sessions.\n\n" +
		"  berth rotate orders"
}

// Run asks for the next version, and waits until it is published.
func (c *RotateCmd) Run(ctx context.Context, g *Globals) error {
	d, err := g.desk()
	if err != nil {
		return err
	}
	return explained(interrupted(ctx, c.run(ctx, d)))
}

func (c *RotateCmd) run(ctx context.Context, d *desk) error {
	t, err := d.askFor(ctx, c.Name, c.Role, func(want *v1alpha1.RotationSpec, current int64) {
		want.MinVersion = max(want.MinVersion, current+1)
	})
	if err != nil {
		return err
	}
	wanted := t.rotation.MinVersion
	if !c.Wait {
		_, err := fmt.Fprintf(d.out, "%s: version %d is asked for; berth get %s shows it.\n", t, wanted, c.Name)
		return err
	}
	t, err = d.awaitCredential(ctx, t, c.Timeout, func(have *v1alpha1.CredentialStatus) string {
		switch {
		case have.Version >= wanted:
			return ""
		case have.Previous != "":
			return fmt.Sprintf("version %d waits until login %s is closed: a login that may be in use is never taken over", wanted, have.Previous)
		}
		return fmt.Sprintf("version %d is being made", wanted)
	})
	if err != nil {
		return err
	}
	if d.format != asTable {
		return d.printList(d.api.Scheme(), []client.Object{t.object}, d.format)
	}
	return d.printRotated(ctx, t)
}

func (d *desk) printRotated(ctx context.Context, t *tenant) error {
	have := t.credential
	text := fmt.Sprintf("%s: login %s is current, version %d.\n", t, have.Login, have.Version)
	if have.Previous != "" {
		text += fmt.Sprintf("Login %s stays open %s, and longer while it has sessions.\n", have.Previous, d.hold(ctx, t))
	}
	_, err := fmt.Fprint(d.out, printableLines(text))
	return err
}

// hold says until when consumers may take to see the credential, as far as
// this person may know.
func (d *desk) hold(ctx context.Context, t *tenant) string {
	claim, class := &v1alpha1.DatabaseClaim{}, &v1alpha1.DatabaseClass{}
	err := d.api.Get(ctx, t.claim, claim)
	if err == nil {
		err = d.api.Get(ctx, client.ObjectKey{Name: claim.Spec.Class}, class)
	}
	if err != nil {
		return "for the class's propagation time"
	}
	end := t.credential.PublishedAt.Add(class.Spec.Rotation.Propagation.Duration)
	return fmt.Sprintf("until %s (%s to see the Secret)", end.Local().Format(time.TimeOnly), ago(t.credential.PublishedAt.Time, end))
}

// askFor changes what t wants of its rotation, never losing a wish that
// somebody else writes meanwhile.
func (d *desk) askFor(ctx context.Context, name string, role bool, wish func(want *v1alpha1.RotationSpec, current int64)) (*tenant, error) {
	var t *tenant
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		var err error
		if t, err = d.tenant(ctx, name, role); err != nil {
			return err
		}
		if err := t.rotatable(); err != nil {
			return err
		}
		before := t.object.DeepCopyObject().(client.Object)
		wish(t.rotation, t.credential.Version)
		return d.api.Patch(ctx, t.object, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	})
	return t, err
}

func (t *tenant) rotatable() error {
	switch {
	case t.copies:
		return fmt.Errorf("%s copies the Secret of DatabaseClaim %s; name that claim instead", t, t.claim)
	case !t.object.GetDeletionTimestamp().IsZero():
		return fmt.Errorf("%s is being deleted; there is nothing to rotate", t)
	case t.credential == nil:
		return fmt.Errorf("%s has no credential yet (%s); %s", t, summary(t.object), advice(t.object))
	}
	return nil
}

// awaitCredential waits until missing is empty for the credential of t. It
// ends early when waiting does not help.
func (d *desk) awaitCredential(ctx context.Context, t *tenant, timeout time.Duration, missing func(*v1alpha1.CredentialStatus) string) (*tenant, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var list client.ObjectList = &v1alpha1.DatabaseClaimList{}
	role := t.kind == "RoleClaim"
	if role {
		list = &v1alpha1.RoleClaimList{}
	}
	changed := changes(ctx, d.api, []client.ListOption{client.InNamespace(d.namespace), client.MatchingFields{"metadata.name": t.object.GetName()}}, list)
	err := d.await(ctx, timeout, changed, func(ctx context.Context) (string, bool, error) {
		now, err := d.tenant(ctx, t.object.GetName(), role)
		if err != nil {
			return "", false, err
		}
		if now.credential == nil {
			return "", false, fmt.Errorf("%s has lost its credential; berth get %s tells why", now, now.object.GetName())
		}
		t = now
		lacks := missing(now.credential)
		if lacks == "" {
			return "", true, nil
		}
		why := summary(now.object)
		if stalled(now.object) {
			return "", false, fmt.Errorf("%s: %s (%s); %s", now, lacks, why, advice(now.object))
		}
		if why != "" {
			lacks += " (" + why + ")"
		}
		return lacks, false, nil
	})
	return t, err
}
