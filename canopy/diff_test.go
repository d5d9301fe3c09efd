package canopy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/canopy"
)

func id(digit string) string {
	return strings.Join([]string{strings.Repeat(digit, 8), strings.Repeat(digit, 4), strings.Repeat(digit, 4), strings.Repeat(digit, 4), strings.Repeat(digit, 12)}, "-")
}

// Others have computed these: a namespace must be found again by whoever looks.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ replica, server, name, want string }{
		"of a plain name":              {id("1"), id("3"), "int-test", "int-test-15de9039"},
		"of another server":            {id("1"), id("2"), "x", "x-2488bf71"},
		"with the ids swapped":         {id("3"), id("1"), "x", "x-67087189"},
		"of ids of nought":             {id("0"), id("0"), "x", "x-66687aad"},
		"of mixed ids":                 {"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b1ffcd00-1d1c-4ff9-8c7e-7cc0ce491b22", "x", "x-7735d854"},
		"of ids in capitals":           {"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "b1ffcd00-1d1c-4ff9-8c7e-7cc0ce491b22", "x", "x-7735d854"},
		"of a name with signs":         {id("0"), id("0"), "  Samoa: Héalth (Replica)! ", "samoa-h-alth-replica-66687aad"},
		"of a name without letters":    {id("0"), id("0"), "日本", "replica-66687aad"},
		"of no name":                   {id("0"), id("0"), "", "replica-66687aad"},
		"of a name that is cut":        {id("0"), id("0"), strings.Repeat("a", 49) + "-bcd", strings.Repeat("a", 49) + "-66687aad"},
		"of a letter that only sounds": {id("0"), id("0"), "5\u212aelvin", "5-elvin-66687aad"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := canopy.Namespace(tc.replica, tc.server, tc.name)
			if err != nil || got != tc.want {
				t.Errorf("got %s, %v; want %s", got, err, tc.want)
			}
		})
	}
}

func TestNamespacesAreNames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		got, err := canopy.Namespace(id("a"), id("b"), rapid.String().Draw(t, "name"))
		if err != nil || len(got) > 63 || strings.Trim(got, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || got[0] == '-' || strings.Contains(got, "--") {
			t.Fatalf("got %q, %v", got, err)
		}
	})
}

func entry(server string, change func(*canopy.Entry)) canopy.Entry {
	snapshot := "s1"
	e := canopy.Entry{ReplicaID: id("1"), ServerID: id(server), GroupID: id("9"), Type: "t", Intent: "verify", Name: "x", SnapshotID: &snapshot, Storage: "s3", Bucket: "b", Region: "r"}
	if change != nil {
		change(&e)
	}
	return e
}

func existing(e canopy.Entry, change func(*canopy.Existing)) canopy.Existing {
	name, _ := canopy.Namespace(e.ReplicaID, e.ServerID, e.Name)
	x := canopy.Existing{Namespace: name, ReplicaID: e.ReplicaID, Made: true, RestoredID: "s1", RestoredAt: now.Add(-time.Hour)}
	if change != nil {
		change(&x)
	}
	return x
}

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func TestWhatFollowsForOneReplica(t *testing.T) {
	t.Parallel()
	newer, seconds := "s2", int64(3600)
	for name, tc := range map[string]struct {
		entry    func(*canopy.Entry)
		existing func(*canopy.Existing)
		absent   bool
		action   canopy.Action
		reason   canopy.Reason
	}{
		"is made when it is not there":                {nil, nil, true, canopy.Provision, ""},
		"is made again when its making was cut short": {nil, func(x *canopy.Existing) { x.Made = false }, false, canopy.Provision, ""},
		"is made when its label names another":        {nil, func(x *canopy.Existing) { x.ReplicaID = id("7") }, false, canopy.Provision, ""},
		"is left alone when it is current":            {nil, nil, false, canopy.NoOp, ""},
		"follows a newer snapshot":                    {func(e *canopy.Entry) { e.SnapshotID = &newer }, nil, false, canopy.Refresh, canopy.NewerSnapshot},
		"waits for its first restore":                 {func(e *canopy.Entry) { e.SnapshotID = &newer }, func(x *canopy.Existing) { x.RestoredID = "" }, false, canopy.NoOp, ""},
		"waits for a first snapshot":                  {func(e *canopy.Entry) { e.SnapshotID = nil }, func(x *canopy.Existing) { x.RestoredID = "" }, false, canopy.NoOp, ""},
		"keeps what it has when no snapshot is named": {func(e *canopy.Entry) { e.SnapshotID = nil }, nil, false, canopy.NoOp, ""},
		"is fresh up to the second":                   {func(e *canopy.Entry) { e.Freshness = &seconds }, nil, false, canopy.NoOp, ""},
		"is refreshed when it is too old": {func(e *canopy.Entry) { e.Freshness = &seconds }, func(x *canopy.Existing) { x.RestoredAt = now.Add(-time.Hour - time.Nanosecond) },
			false, canopy.Refresh, canopy.FreshnessExpired},
		"knows the newer name of freshness": {func(e *canopy.Entry) { e.OverdueAfter = &seconds }, func(x *canopy.Existing) { x.RestoredAt = now.Add(-2 * time.Hour) },
			false, canopy.Refresh, canopy.FreshnessExpired},
		"obeys a person first": {func(e *canopy.Entry) { e.SnapshotID = &newer }, func(x *canopy.Existing) { x.ForceRefresh = true }, false, canopy.Refresh, canopy.Forced},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := entry("2", tc.entry)
			var have []canopy.Existing
			if !tc.absent {
				have = append(have, existing(e, tc.existing))
			}
			p, err := canopy.Diff([]canopy.Entry{e}, have, now, canopy.Guard{})
			if err != nil || len(p.Steps) != 1 || p.Steps[0].Action != tc.action || p.Steps[0].Reason != tc.reason || p.Held != 0 {
				t.Errorf("got %+v, %v; want %s %s", p, err, tc.action, tc.reason)
			}
		})
	}
}

// One declaration for a group is one replica for each of its servers.
func TestServersThatShareADeclarationHaveAReplicaEach(t *testing.T) {
	t.Parallel()
	p, err := canopy.Diff([]canopy.Entry{entry("2", nil), entry("3", nil), entry("4", nil)}, nil, now, canopy.Guard{})
	names := map[string]bool{}
	servers := map[string]bool{}
	for _, s := range p.Steps {
		names[s.Namespace], servers[s.Entry.ServerID] = true, true
		if s.Action != canopy.Provision {
			t.Errorf("%s of %s", s.Action, s.Namespace)
		}
	}
	if err != nil || len(names) != 3 || len(servers) != 3 {
		t.Errorf("%v, %v, %v", names, servers, err)
	}
}

func TestTheGuardHoldsAMassTeardown(t *testing.T) {
	t.Parallel()
	const all = 20
	guard := canopy.Guard{Share: 0.25, Always: 2}
	for name, tc := range map[string]struct {
		left       int
		there      int
		guard      canopy.Guard
		down, held int
	}{
		"of an empty list":                   {0, all, guard, 0, 20},
		"of a list that lost most":           {10, all, guard, 0, 10},
		"but not a few":                      {15, all, guard, 5, 0},
		"nor the last two there are":         {0, 2, guard, 2, 0},
		"nor what a person has confirmed":    {0, all, canopy.Guard{Confirm: true}, 20, 0},
		"and everything when nothing may go": {19, all, canopy.Guard{}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var entries []canopy.Entry
			var have []canopy.Existing
			for n := range tc.there {
				e := entry("2", func(e *canopy.Entry) { e.ReplicaID = fmt.Sprintf("%08d", n) + id("1")[8:] })
				have = append(have, existing(e, nil))
				if n < tc.left {
					entries = append(entries, e)
				}
			}
			p, err := canopy.Diff(entries, have, now, tc.guard)
			down := 0
			for _, s := range p.Steps {
				if s.Action == canopy.Teardown {
					down++
				}
			}
			if diff := cmp.Diff([]int{tc.down, tc.held}, []int{down, p.Held}); err != nil || diff != "" {
				t.Errorf("%v: %s", err, diff)
			}
		})
	}
}

func TestWorklists(t *testing.T) {
	t.Parallel()
	good := fmt.Sprintf(`{"replica_id":%q,"server_id":%q,"group_id":%q,"type":"t","intent":"verify","name":"x","freshness_seconds":null,"snapshot_id":null,
		"snapshot_at":null,"storage":"s3","bucket":"b","prefix":"","region":"r","of_a_later_version":[1]}`, id("1"), id("2"), id("9"))
	for name, tc := range map[string]struct {
		text string
		n    int // -1: refused
	}{
		"an empty one":                  {"[]", 0},
		"one with fields of the future": {"[" + good + "]", 1},
		"null":                          {"null", -1},
		"nothing":                       {"", -1},
		"a page of HTML":                {"<html>", -1},
		"an object":                     {`{"entries":[]}`, -1},
		"half of one":                   {"[" + good + ",", -1},
		"an entry twice":                {"[" + good + "," + good + "]", -1},
		"an id that is none":            {"[" + strings.Replace(good, id("1"), "../../etc", 1) + "]", -1},
		"another storage":               {"[" + strings.Replace(good, `"s3"`, `"ftp"`, 1) + "]", -1},
		"an entry without a group":      {"[" + strings.Replace(good, id("9"), "", 1) + "]", -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entries, err := canopy.ParseWorklist([]byte(tc.text))
			if (err == nil) != (tc.n >= 0) || err == nil && len(entries) != tc.n {
				t.Errorf("got %d entries, %v", len(entries), err)
			}
		})
	}
}
