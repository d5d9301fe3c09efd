package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// EventsCmd shows what happened to berth's objects.
type EventsCmd struct {
	Name  string `arg:"" optional:"" help:"Claim or RoleClaim; without it, all of the namespace." complete:"claims"`
	Watch bool   `short:"w" help:"Go on with what happens next, until interrupted."`
}

// Help shows uses.
func (EventsCmd) Help() string {
	return "The cluster keeps events for about an hour. Those of classes are in namespace default.\n\n" +
		"  berth events orders\n  berth events -A -w"
}

// Run prints the events, oldest first.
func (c *EventsCmd) Run(ctx context.Context, g *Globals) error {
	d, err := g.desk()
	if err != nil {
		return err
	}
	return explained(interrupted(ctx, c.run(ctx, d)))
}

func (c *EventsCmd) run(ctx context.Context, d *desk) error {
	switch {
	case c.Name != "" && d.all:
		return errors.New("a name is of one namespace; use -n NAMESPACE instead of -A")
	case c.Watch && d.format != asTable:
		return errors.New("--watch prints lines; leave -o " + d.format + " out")
	}
	events, err := c.list(ctx, d)
	if err != nil {
		return err
	}
	if d.format != asTable {
		var objects []client.Object
		for i := range events {
			objects = append(objects, &events[i])
		}
		return d.printList(d.api.Scheme(), objects, d.format)
	}
	if len(events) == 0 && !c.Watch {
		_, err := fmt.Fprintln(d.out, "Nothing happened lately; the cluster keeps events for about an hour.")
		return err
	}
	if err := d.printEvents(events, nil); err != nil || !c.Watch {
		return err
	}
	return c.follow(ctx, d, events)
}

// follow prints each event and each repetition of one once.
func (c *EventsCmd) follow(ctx context.Context, d *desk, events []eventsv1.Event) error {
	seen := map[types.UID]string{}
	for _, e := range events {
		seen[e.UID] = e.ResourceVersion
	}
	changed := changes(ctx, d.api, []client.ListOption{d.within()}, &eventsv1.EventList{})
	for {
		select {
		case <-ctx.Done():
			return errInterrupted
		case <-changed:
		}
		events, err := c.list(ctx, d)
		if err != nil {
			return err
		}
		if err := d.printEvents(events, seen); err != nil {
			return err
		}
		for _, e := range events {
			seen[e.UID] = e.ResourceVersion
		}
	}
}

func (c *EventsCmd) list(ctx context.Context, d *desk) ([]eventsv1.Event, error) {
	list := &eventsv1.EventList{}
	if err := d.api.List(ctx, list, d.within()); err != nil {
		return nil, fmt.Errorf("listing events: %w", err)
	}
	events := slices.DeleteFunc(list.Items, func(e eventsv1.Event) bool {
		return !strings.HasPrefix(e.Regarding.APIVersion, v1alpha1.GroupVersion.Group+"/") || (c.Name != "" && e.Regarding.Name != c.Name)
	})
	sortEvents(events)
	return events, nil
}

// sortEvents puts the oldest first.
func sortEvents(events []eventsv1.Event) {
	slices.SortStableFunc(events, func(a, b eventsv1.Event) int {
		return cmp.Or(lastTime(a).Compare(lastTime(b)), cmp.Compare(a.Name, b.Name))
	})
}

// lastTime is when the event, or its last repetition, happened.
func lastTime(e eventsv1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.DeprecatedLastTimestamp.Time
}

// printEvents leaves out those of seen that have not changed.
func (d *desk) printEvents(events []eventsv1.Event, seen map[types.UID]string) error {
	for _, e := range events {
		if version, known := seen[e.UID]; known && version == e.ResourceVersion {
			continue
		}
		if _, err := fmt.Fprintln(d.out, d.eventLine(e)); err != nil {
			return err
		}
	}
	return nil
}

func (d *desk) eventLine(e eventsv1.Event) string {
	object := e.Regarding.Kind + " " + e.Regarding.Name
	if d.all && e.Regarding.Namespace != "" {
		object = e.Regarding.Kind + " " + e.Regarding.Namespace + "/" + e.Regarding.Name
	}
	reason, as := e.Reason, plain
	if e.Type == corev1.EventTypeWarning {
		as = bad
	}
	if e.Series != nil {
		reason += fmt.Sprintf(" (%d times)", e.Series.Count)
	}
	return fmt.Sprintf("%-6s %-32s %s  %s", ago(lastTime(e), d.now()), object, d.paint(as, reason), printable(e.Note))
}
