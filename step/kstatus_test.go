package step_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-dev/berth/step"
)

// kstatus is how its library reads an object, in short.
// https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
func kstatus(c *claim) string {
	conditions := c.Status.Conditions
	switch {
	case c.DeletionTimestamp != nil:
		return "Terminating"
	case c.Generation != c.Status.ObservedGeneration:
		return "InProgress"
	case meta.IsStatusConditionTrue(conditions, "Reconciling"):
		return "InProgress"
	case meta.IsStatusConditionTrue(conditions, step.Stalled):
		return "Failed"
	case meta.IsStatusConditionFalse(conditions, "Ready"):
		return "InProgress"
	case meta.IsStatusConditionTrue(conditions, "Ready"):
		return "Current"
	default:
		return "Unknown"
	}
}

func TestKstatusReadsTheObjectRight(t *testing.T) {
	t.Parallel()
	var out, down step.Outcome
	r := newRig(t, do("First", following(&out)))
	r.Plan.Down = []step.Step[*claim]{do("Released", following(&down))}
	if got := kstatus(r.read()); got != "InProgress" {
		t.Errorf("before the first pass: %s", got)
	}
	for _, stage := range []struct {
		out  step.Outcome
		want string
	}{
		{step.Wait(0, "Starting", "It starts."), "InProgress"},
		{step.Blocked("NotAllowed", "No."), "Failed"},
		{step.Failed("Refused", errors.New("refused")), "InProgress"},
		{step.Done(), "Current"},
		{step.Blocked("NotAllowed", "No."), "Failed"},
		{step.Done().Again(time.Hour), "Current"},
	} {
		out = stage.out
		_, _ = r.pass() // failures are part of the list
		if got := kstatus(r.read()); got != stage.want {
			t.Errorf("after %q: %s, want %s", stage.out.Text(), got, stage.want)
		}
	}
	r.edit()
	if got := kstatus(r.read()); got != "InProgress" {
		t.Errorf("after an edit that no pass has seen: %s", got)
	}
	r.mustPass()
	if got := kstatus(r.read()); got != "Current" {
		t.Errorf("after the edit was seen: %s", got)
	}
	down = step.Wait(0, "InUse", "In use.")
	r.remove()
	r.mustPass()
	if got := kstatus(r.read()); got != "Terminating" {
		t.Errorf("while deleting: %s", got)
	}
}

func TestASecondObjectIsNotHeldByAFailingOne(t *testing.T) {
	t.Parallel()
	limiter := step.Backoff()
	one, two := request("one"), request("two")
	var waits []time.Duration
	for range 12 {
		waits = append(waits, limiter.When(one))
	}
	if waits[0] != 500*time.Millisecond || waits[1] != time.Second || waits[11] != 2*time.Minute {
		t.Errorf("a failing object waits %v, want 0.5 s doubling to 2 min", waits)
	}
	if got := limiter.When(two); got != 500*time.Millisecond {
		t.Errorf("another object waits %s, want 0.5 s", got)
	}
}

func TestAStepGetsTheScopeThatWasOpened(t *testing.T) {
	t.Parallel()
	var seen *claim
	r := newRig(t, do("First", func(_ context.Context, c *claim) step.Outcome { seen = c; return step.Done() }))
	r.mustPass()
	if seen == nil || seen.Name != "orders" {
		t.Errorf("the step saw %v", seen)
	}
}
