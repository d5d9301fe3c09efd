package canopy

import (
	"cmp"
	"slices"
	"time"
)

// Action is what has to be done about one replica.
type Action string

// Actions.
const (
	Provision Action = "Provision"
	Refresh   Action = "Refresh"
	Teardown  Action = "Teardown"
	NoOp      Action = "NoOp"
)

// Reason is why a replica is refreshed.
type Reason string

// Reasons, the first that holds counts.
const (
	Forced           Reason = "Forced"
	NewerSnapshot    Reason = "NewerSnapshot"
	FreshnessExpired Reason = "FreshnessExpired"
)

// Existing is a replica as the cluster has it.
type Existing struct {
	Namespace    string
	ReplicaID    string    // of its label; empty when that is broken
	Made         bool      // everything that Provision makes is there
	ForceRefresh bool      // a person asked
	RestoredID   string    // snapshot of the last whole restore; empty: none yet
	RestoredAt   time.Time // when that was
}

// Step is what a worklist asks for in one namespace.
type Step struct {
	Action    Action
	Reason    Reason // of a Refresh
	Namespace string
	Entry     *Entry // nil for Teardown
}

// Plan is what follows from a worklist.
type Plan struct {
	Steps []Step
	Held  int // teardowns that were held back: too many at once to be meant
}

// Guard bounds what one worklist may take down at once: an empty list, or one
// that lost most of its entries, is rather a mistake of the service.
type Guard struct {
	Share   float64 // of the replicas there are, 0 to 1
	Always  int     // so many may go in any case
	Confirm bool    // a person has confirmed that all of them shall go
}

// Diff compares what must exist with what does. It is pure. The order is by
// namespace, what is new before what goes.
func Diff(entries []Entry, existing []Existing, now time.Time, g Guard) (Plan, error) {
	have := map[string]Existing{}
	for _, e := range existing {
		have[e.Namespace] = e
	}
	var p Plan
	wanted := map[string]bool{}
	for _, e := range entries {
		name, err := Namespace(e.ReplicaID, e.ServerID, e.Name)
		if err != nil {
			return Plan{}, err
		}
		wanted[name] = true
		there, found := have[name]
		action, reason := decide(e, there, found, now)
		p.Steps = append(p.Steps, Step{action, reason, name, &e})
	}
	var doomed []Step
	for _, e := range existing {
		if !wanted[e.Namespace] {
			doomed = append(doomed, Step{Action: Teardown, Namespace: e.Namespace})
		}
	}
	if g.Confirm || len(doomed) <= max(g.Always, int(g.Share*float64(len(existing)))) {
		p.Steps = append(p.Steps, doomed...)
	} else {
		p.Held = len(doomed)
	}
	slices.SortStableFunc(p.Steps, func(a, b Step) int {
		if d := cmp.Compare(order[a.Action], order[b.Action]); d != 0 {
			return d
		}
		return cmp.Compare(a.Namespace, b.Namespace)
	})
	return p, nil
}

var order = map[Action]int{Provision: 0, Refresh: 1, NoOp: 2, Teardown: 3}

// decide is about one entry. A replica whose making was cut short is
// provisioned again, each time, until it is whole.
func decide(e Entry, there Existing, found bool, now time.Time) (Action, Reason) {
	switch {
	case !found || there.ReplicaID != e.ReplicaID || !there.Made:
		return Provision, ""
	case there.ForceRefresh:
		return Refresh, Forced
	case there.RestoredID == "":
		return NoOp, "" // its first restore is on the way, or nothing is backed up yet
	case e.SnapshotID != nil && *e.SnapshotID != there.RestoredID:
		return Refresh, NewerSnapshot
	case e.MaxAge() > 0 && now.Sub(there.RestoredAt) > e.MaxAge():
		return Refresh, FreshnessExpired
	}
	return NoOp, ""
}
