package restore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/agent/restore"
)

func passed() []restore.Check {
	var all []restore.Check
	for _, name := range []string{restore.CheckComplete, restore.CheckMoment, restore.CheckRecovery, restore.CheckStructure, restore.CheckRows} {
		all = append(all, restore.Check{Name: name, Status: restore.Passed})
	}
	return all
}

func TestDecide(t *testing.T) {
	t.Parallel()
	but := func(status restore.Status) []restore.Check {
		return append(passed(), restore.Check{Name: "assertion x", Status: status, Message: "why"})
	}
	for name, tc := range map[string]struct {
		result  restore.Result
		err     error
		verdict restore.Verdict
		reason  restore.Reason
		message string
		retry   bool
	}{
		"verifies what passed everything":             {restore.Result{Checks: passed()}, nil, restore.Verified, "", "", false},
		"does not verify what was not checked":        {restore.Result{Checks: passed()[1:]}, nil, restore.Degraded, "", "complete: not checked", false},
		"does not verify nothing":                     {restore.Result{}, nil, restore.Degraded, "", "complete: not checked; moment: not checked; recovery: not checked; structure: not checked; rows: not checked", false},
		"does not verify after a reset":               {restore.Result{Checks: passed(), Fixes: restore.Fixes{ResetWAL: true}}, nil, restore.Degraded, "", "pg_resetwal was used: changes may be lost or half done", false},
		"degrades a doubt":                            {restore.Result{Checks: but(restore.Doubtful)}, nil, restore.Degraded, "", "assertion x: why", false},
		"degrades a status that it does not know":     {restore.Result{Checks: but("")}, nil, restore.Degraded, "", "assertion x: why", false},
		"fails what is broken":                        {restore.Result{Checks: but(restore.Broken)}, nil, restore.Failed, restore.CheckFailed, "assertion x: why", false},
		"fails a backup at fault":                     {restore.Result{}, &restore.Fault{Reason: restore.RepositoryCorrupt, Err: errors.New("why")}, restore.Failed, restore.RepositoryCorrupt, "why", false},
		"finds the fault in a chain":                  {restore.Result{}, fmt.Errorf("doing: %w", &restore.Fault{Reason: restore.NoDatabase, Err: errors.New("why")}), restore.Failed, restore.NoDatabase, "why", false},
		"says nothing when the machine is at fault":   {restore.Result{Checks: passed()}, &restore.Fault{Reason: restore.NoSpace, Err: errors.New("why")}, "", restore.NoSpace, "why", true},
		"does not repeat what a person has to change": {restore.Result{}, &restore.Fault{Reason: restore.ServerMissing, Err: errors.New("why")}, "", restore.ServerMissing, "why", false},
		"says nothing on what it does not know":       {restore.Result{}, context.DeadlineExceeded, "", restore.Unsuitable, "context deadline exceeded", true},
		"forgets an earlier verdict":                  {restore.Result{Verdict: restore.Verified, Message: "old"}, &restore.Fault{Reason: restore.Interrupted, Err: errors.New("why")}, "", restore.Interrupted, "why", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := restore.Decide(tc.result, tc.err)
			if r.Verdict != tc.verdict || r.Reason != tc.reason || r.Message != tc.message || r.Retry != tc.retry {
				t.Errorf("got %q %q %q %v", r.Verdict, r.Reason, r.Message, r.Retry)
			}
		})
	}
}

// Whatever a run met, only a whole set of passed checks is verified.
func TestOnlyWhatPassedEverythingIsVerified(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		checks := passed()
		spoiled := false
		for i := range checks {
			status := rapid.SampledFrom([]restore.Status{restore.Passed, restore.Passed, restore.Passed, restore.Doubtful, restore.Broken, ""}).Draw(t, "status")
			checks[i].Status = status
			spoiled = spoiled || status != restore.Passed
		}
		missing := rapid.IntRange(0, len(checks)).Draw(t, "missing")
		if missing < len(checks) {
			checks = append(checks[:missing], checks[missing+1:]...)
			spoiled = true
		}
		reset := rapid.Bool().Draw(t, "reset")
		var err error
		if rapid.Bool().Draw(t, "ended early") {
			err = errors.New("ended")
		}
		r := restore.Decide(restore.Result{Checks: checks, Fixes: restore.Fixes{ResetWAL: reset}}, err)
		if (r.Verdict == restore.Verified) != (!spoiled && !reset && err == nil) {
			t.Fatalf("%q of %+v, reset %v, err %v", r.Verdict, checks, reset, err)
		}
	})
}
