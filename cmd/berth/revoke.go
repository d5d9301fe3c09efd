package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// RevokeCmd takes a credential away at once.
type RevokeCmd struct {
	Name    string        `arg:"" help:"Claim." complete:"claims"`
	Role    bool          `help:"The name is a RoleClaim's."`
	Yes     bool          `short:"y" help:"Do not ask."`
	Timeout time.Duration `help:"How long to wait." default:"2m"`
}

// Help says what a revocation breaks.
func (RevokeCmd) Help() string {
	return "For a password that leaked. A new login is published first; then the old ones are closed and all their sessions end at once, " +
		"and clients fail until they read the Secret again. To replace a password without that, use rotate.\n\n" +
		"  berth revoke orders\n  berth revoke orders --yes"
}

// Run asks, revokes, and tells what that broke.
func (c *RevokeCmd) Run(ctx context.Context, g *Globals) error {
	d, err := g.desk()
	if err != nil {
		return err
	}
	return explained(interrupted(ctx, c.run(ctx, d)))
}

func (c *RevokeCmd) run(ctx context.Context, d *desk) error {
	t, err := d.tenant(ctx, c.Name, c.Role)
	if err != nil {
		return err
	}
	if err := t.rotatable(); err != nil {
		return err
	}
	if err := c.confirm(d, t); err != nil {
		return err
	}
	began, agreed := d.now().Add(-time.Second), t.credential.Version // a second for the rounding of events
	t, err = d.askFor(ctx, c.Name, c.Role, func(want *v1alpha1.RotationSpec, _ int64) {
		want.RevokedThrough = max(want.RevokedThrough, agreed)
	})
	if err != nil {
		return err
	}
	t, err = d.awaitCredential(ctx, t, c.Timeout, func(have *v1alpha1.CredentialStatus) string {
		switch {
		case have.Version <= agreed:
			return fmt.Sprintf("a login after version %d is being made", agreed)
		case have.Version == agreed+1 && have.Previous != "":
			return fmt.Sprintf("login %s is being closed", have.Previous)
		}
		return ""
	})
	if err != nil {
		return err
	}
	if d.format != asTable {
		return d.printList(d.api.Scheme(), []client.Object{t.object}, d.format)
	}
	text := fmt.Sprintf("%s: login %s is current, version %d.\n", t, t.credential.Login, t.credential.Version)
	for _, note := range d.awaitNotes(ctx, t, began) {
		text += note + "\n"
	}
	_, err = fmt.Fprint(d.out, printableLines(text))
	return err
}

func (c *RevokeCmd) confirm(d *desk, t *tenant) error {
	if c.Yes {
		return nil
	}
	if !d.asks {
		return errors.New("revoking ends sessions, and nobody is here to confirm it; add --yes")
	}
	logins := t.credential.Login
	if t.credential.Previous != "" {
		logins += " and " + t.credential.Previous
	}
	question := fmt.Sprintf("Revoking closes login %s of %s. All its sessions end at once, and clients fail until they read Secret %s again.", logins, t, t.secret)
	sure, err := d.confirm(question, t.object.GetName())
	if err == nil && !sure {
		err = errors.New("nothing was revoked: the name was not typed")
	}
	return err
}

// Reasons of the events that tell what a revocation broke.
const (
	revoked       = "Revoked"
	sessionsEnded = "SessionsEnded"
)

// noteWait bounds the wait for events, which are written after the fact and
// may never arrive.
const noteWait = 5 * time.Second

// awaitNotes are the texts of the events that tell what was broken since began.
func (d *desk) awaitNotes(ctx context.Context, t *tenant, began time.Time) []string {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	options := []client.ListOption{client.InNamespace(d.namespace), client.MatchingFields{"regarding.name": t.object.GetName()}}
	changed := changes(ctx, d.api, options, &eventsv1.EventList{})
	var notes []string
	err := d.await(ctx, noteWait, changed, func(ctx context.Context) (string, bool, error) {
		list := &eventsv1.EventList{}
		if err := d.api.List(ctx, list, options...); err != nil {
			return "", false, err
		}
		var done bool
		notes, done = broken(list.Items, t, began)
		return "reading what it broke", done, nil
	})
	if err != nil {
		notes = append(notes, fmt.Sprintf("berth events %s tells what it broke.", t.object.GetName()))
	}
	return notes
}

func broken(events []eventsv1.Event, t *tenant, began time.Time) (notes []string, complete bool) {
	sortEvents(events)
	for _, e := range events {
		ours := e.Regarding.UID == t.object.GetUID() && (e.Reason == revoked || e.Reason == sessionsEnded)
		if ours && !e.EventTime.Time.Before(began) {
			notes = append(notes, strings.TrimSpace(e.Note))
			complete = complete || e.Reason == revoked
		}
	}
	return notes, complete
}
