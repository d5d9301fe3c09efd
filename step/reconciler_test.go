package step_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/berth-dev/berth/step"
)

func TestOneOutcome(t *testing.T) {
	t.Parallel()
	broken := errors.New("the disk is full")
	for name, tc := range map[string]struct {
		outcome    step.Outcome
		conditions map[string]string
		requeue    time.Duration
		err        error
		events     []string
	}{
		"done lets the next step run and makes the root True": {
			outcome: step.Done(),
			conditions: map[string]string{"First": "True First g1", "Second": "True Second g1", "Third": "True Third g1",
				"Ready": "True Ready g1"},
			events: []string{"Normal Ready: All steps hold."},
		},
		"done with another look asks for it": {
			outcome: step.Done().Again(time.Hour),
			conditions: map[string]string{"First": "True First g1", "Second": "True Second g1", "Third": "True Third g1",
				"Ready": "True Ready g1"},
			requeue: time.Hour,
			events:  []string{"Normal Ready: All steps hold."},
		},
		"waiting stops there and says when it looks again": {
			outcome: step.Wait(time.Minute, "Starting", "The server starts."),
			conditions: map[string]string{"First": "True First g1", "Second": "False Starting g1 The server starts.",
				"Third": "Unknown NotReached g1", "Ready": "False Starting g1 The server starts."},
			requeue: time.Minute,
		},
		"waiting for a watch asks for no other look": {
			outcome: step.Wait(0, "Starting", "The server starts."),
			conditions: map[string]string{"First": "True First g1", "Second": "False Starting g1 The server starts.",
				"Third": "Unknown NotReached g1", "Ready": "False Starting g1 The server starts."},
		},
		"blocked stalls the object and asks for no other look": {
			outcome: step.Blocked("NotAllowed", "Ask for %d less.", 2),
			conditions: map[string]string{"First": "True First g1", "Second": "False NotAllowed g1 Ask for 2 less.",
				"Third": "Unknown NotReached g1", "Ready": "False NotAllowed g1 Ask for 2 less.",
				"Stalled": "True NotAllowed g1 Ask for 2 less."},
			events: []string{"Warning NotAllowed: Ask for 2 less."},
		},
		"failed hands its error to the backoff": {
			outcome: step.Failed("DiskFull", broken),
			conditions: map[string]string{"First": "True First g1", "Second": "False DiskFull g1 the disk is full",
				"Third": "Unknown NotReached g1", "Ready": "False DiskFull g1 the disk is full"},
			err:    broken,
			events: []string{"Warning DiskFull: the disk is full"},
		},
		"a note is an event of its own": {
			outcome: step.Wait(0, "Ending", "Sessions end.").Note("SessionsEnded", "%d sessions ended.", 3),
			conditions: map[string]string{"First": "True First g1", "Second": "False Ending g1 Sessions end.",
				"Third": "Unknown NotReached g1", "Ready": "False Ending g1 Sessions end."},
			events: []string{"Normal SessionsEnded: 3 sessions ended."},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, do("First", always(step.Done())), do("Second", always(tc.outcome)), do("Third", always(step.Done())))
			result, err := r.pass()
			if !errors.Is(err, tc.err) || result.RequeueAfter != tc.requeue {
				t.Errorf("got requeue %s and error %v, want %s and %v", result.RequeueAfter, err, tc.requeue, tc.err)
			}
			if diff := cmp.Diff(tc.conditions, r.conditions()); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.events, r.events.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if got := r.read().Status.ObservedGeneration; got != 1 {
				t.Errorf("observed generation %d, want 1", got)
			}
			if diff := cmp.Diff([]string{"PATCH orders", "PATCH status"}, r.writes.take()); diff != "" {
				t.Errorf("writes (-want +got):\n%s", diff)
			}

			before := r.read().ResourceVersion
			if again, err := r.pass(); !errors.Is(err, tc.err) || again != result {
				t.Errorf("the same pass again got %v and error %v, want %v and %v", again, err, result, tc.err)
			}
			if got := r.writes.take(); len(got) > 0 || r.read().ResourceVersion != before {
				t.Errorf("nothing changed, but the pass wrote %v", got)
			}
			for _, event := range r.events.take() {
				if !strings.HasPrefix(event, "Normal SessionsEnded") {
					t.Errorf("nothing changed, but the pass told %q", event)
				}
			}
		})
	}
}

func TestObservationsFollowTheGeneration(t *testing.T) {
	t.Parallel()
	second := step.Done()
	r := newRig(t, do("First", always(step.Done())), do("Second", following(&second)), do("Third", always(step.Done())))
	r.mustPass()
	r.edit()
	second = step.Blocked("NotAllowed", "No.")
	r.mustPass()
	want := map[string]string{"First": "True First g2", "Second": "False NotAllowed g2 No.",
		"Third": "True Third g1", "Ready": "False NotAllowed g2 No.", "Stalled": "True NotAllowed g2 No."}
	if diff := cmp.Diff(want, r.conditions()); diff != "" {
		t.Errorf("a step that was not reached lost its last observation (-want +got):\n%s", diff)
	}
	second = step.Done()
	r.mustPass()
	want = map[string]string{"First": "True First g2", "Second": "True Second g2", "Third": "True Third g2", "Ready": "True Ready g2"}
	if diff := cmp.Diff(want, r.conditions()); diff != "" {
		t.Errorf("after recovery (-want +got):\n%s", diff)
	}
	if got := r.read().Status.ObservedGeneration; got != 2 {
		t.Errorf("observed generation %d, want 2", got)
	}
}

func TestTransitionTimesSaySinceWhen(t *testing.T) {
	t.Parallel()
	out := step.Wait(0, "Starting", "It starts.")
	r := newRig(t, do("First", following(&out)))
	r.mustPass()
	r.clock.SetTime(start.Add(time.Minute))
	out = step.Wait(0, "Recovering", "It recovers.")
	r.mustPass()
	if got := r.condition("First").LastTransitionTime; !got.Time.Equal(start) {
		t.Errorf("a change of the reason alone moved the time to %s", got)
	}
	out = step.Done()
	r.mustPass()
	if got := r.condition("First").LastTransitionTime; !got.Time.Equal(start.Add(time.Minute)) {
		t.Errorf("a change of the status left the time at %s", got)
	}
}

func TestTheSoonestLookWins(t *testing.T) {
	t.Parallel()
	r := newRig(t,
		do("First", always(step.Done().Again(time.Hour))),
		do("Second", always(step.Done().Again(time.Minute))),
		do("Beside", always(step.Wait(2*time.Minute, "Busy", "Busy."))).Aside(),
		do("Third", always(step.Done())))
	if got := r.mustPass().RequeueAfter; got != time.Minute {
		t.Errorf("looks again in %s, want 1m", got)
	}
}

func TestAnAsideStepStandsBeside(t *testing.T) {
	t.Parallel()
	broken := errors.New("no route")
	for name, tc := range map[string]struct {
		outcome step.Outcome
		want    string
		err     error
		events  []string
	}{
		"waiting": {outcome: step.Wait(time.Minute, "InUse", "In use."), want: "False InUse g1 In use.",
			events: []string{"Normal Ready: All steps hold."}},
		"blocked, which does not stall the object": {outcome: step.Blocked("Odd", "Odd."), want: "False Odd g1 Odd.",
			events: []string{"Warning Odd: Odd.", "Normal Ready: All steps hold."}},
		"failed, which is retried": {outcome: step.Failed("NoRoute", broken), want: "False NoRoute g1 no route", err: broken,
			events: []string{"Warning NoRoute: no route", "Normal Ready: All steps hold."}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, do("Beside", always(tc.outcome)).Aside(), do("After", always(step.Done())))
			if _, err := r.pass(); !errors.Is(err, tc.err) {
				t.Errorf("got error %v, want %v", err, tc.err)
			}
			want := map[string]string{"Beside": tc.want, "After": "True After g1", "Ready": "True Ready g1"}
			if diff := cmp.Diff(want, r.conditions()); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.events, r.events.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestABatchRemembersWhatIsDone(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		batch bool
		want  int
	}{
		"a batch object runs a finished step once": {batch: true, want: 1},
		"a living object runs it again each time":  {batch: false, want: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runs, second := 0, step.Wait(0, "Copying", "It copies.")
			r := newRig(t, do("First", func(context.Context, *claim) step.Outcome { runs++; return step.Done() }), do("Second", following(&second)))
			r.Plan.Batch = tc.batch
			r.mustPass()
			r.mustPass()
			second = step.Done()
			r.mustPass()
			if runs != tc.want {
				t.Errorf("the first step ran %d times, want %d", runs, tc.want)
			}
			if got := r.condition("Ready").Status; got != metav1.ConditionTrue {
				t.Errorf("root is %s", got)
			}
		})
	}
}

func TestOpenThatFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("the cache is empty")
	r := newRig(t, do("First", always(step.Done())))
	r.mustPass()
	r.events.take()
	r.Plan.Open = func(context.Context, *claim) (*claim, error) { return nil, broken }
	if _, err := r.pass(); !errors.Is(err, broken) {
		t.Errorf("got error %v", err)
	}
	const message = "reading what orders needs: the cache is empty"
	if diff := cmp.Diff(map[string]string{"First": "True First g1", "Ready": "False ReadFailed g1 " + message}, r.conditions()); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Warning ReadFailed: " + message}, r.events.take()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestDeletion(t *testing.T) {
	t.Parallel()
	released := step.Wait(time.Minute, "InUse", "One session is left.")
	r := newRig(t, do("First", always(step.Done())))
	r.Plan.Down = []step.Step[*claim]{do("Withdrawn", always(step.Done())), do("Released", following(&released))}
	r.mustPass()
	r.events.take()
	r.remove()

	if got := r.mustPass().RequeueAfter; got != time.Minute {
		t.Errorf("looks again in %s, want 1m", got)
	}
	// Deletion counts as a change of the spec: it raises the generation.
	want := map[string]string{"First": "True First g1", "Withdrawn": "True Withdrawn g2",
		"Released": "False InUse g2 One session is left.", "Ready": "False Deleting g2 InUse: One session is left."}
	if diff := cmp.Diff(want, r.conditions()); diff != "" {
		t.Errorf("while waiting (-want +got):\n%s", diff)
	}
	if got := r.events.take(); len(got) > 0 {
		t.Errorf("waiting told %q", got)
	}

	released = step.Blocked("NotOurs", "Remove it by hand.")
	r.mustPass()
	want["Released"], want["Ready"] = "False NotOurs g2 Remove it by hand.", "False Deleting g2 NotOurs: Remove it by hand."
	want["Stalled"] = "True NotOurs g2 Remove it by hand."
	if diff := cmp.Diff(want, r.conditions()); diff != "" {
		t.Errorf("while blocked (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Warning NotOurs: Remove it by hand."}, r.events.take()); diff != "" {
		t.Errorf("events of a blocked deletion (-want +got):\n%s", diff)
	}

	released = step.Done()
	last := r.read()
	r.writes.take()
	r.mustPass()
	if err := r.server.Get(t.Context(), r.key, &claim{}); !apierrors.IsNotFound(err) {
		t.Errorf("the object is still there: %v", err)
	}
	if diff := cmp.Diff([]string{"PATCH orders"}, r.writes.take()); diff != "" {
		t.Errorf("writes of the last pass (-want +got):\n%s", diff)
	}
	if result, err := r.Reconcile(t.Context(), last); err != nil || result.RequeueAfter != 0 {
		t.Errorf("a pass over the object that vanished got %v, %v", result, err)
	}
}

func TestDeletionWithoutOurFinalizerIsLeftAlone(t *testing.T) {
	t.Parallel()
	runs := 0
	r := newRig(t)
	r.Plan.Down = []step.Step[*claim]{do("Released", func(context.Context, *claim) step.Outcome { runs++; return step.Done() })}
	c := r.read()
	c.Finalizers = []string{"test.berth.dev/somebody-else"}
	if err := r.server.Update(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	r.remove()
	r.mustPass()
	if runs > 0 || len(r.writes.take()) > 0 {
		t.Error("an object that was never ours was worked on")
	}
}

func TestAnObjectThatVanishesMidPassIsFine(t *testing.T) {
	t.Parallel()
	var r *rig
	r = newRig(t, do("First", func(ctx context.Context, _ *claim) step.Outcome {
		c := r.read()
		c.Finalizers = nil
		if err := errors.Join(r.server.Update(ctx, c), r.server.Delete(ctx, c)); err != nil {
			t.Error(err)
		}
		return step.Wait(0, "Starting", "It starts.")
	}))
	if result, err := r.pass(); err != nil || result.RequeueAfter != 0 {
		t.Errorf("got %v, %v", result, err)
	}
}

func TestWithin(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long and longer ", 100)
	for name, tc := range map[string]struct {
		outcome func(pass int) step.Outcome
		message string
	}{
		"a wait": {
			outcome: func(int) step.Outcome { return step.Wait(0, "Starting", "It starts.") },
			message: "Takes longer than 10m0s: It starts.",
		},
		"a wait whose message changes": {
			outcome: func(pass int) step.Outcome { return step.Wait(0, "Starting", "Try %d.", pass) },
			message: "Takes longer than 10m0s: Try 4.",
		},
		"a wait whose message has no room left": {
			outcome: func(int) step.Outcome { return step.Wait(0, "Starting", "%s", long) },
			message: "Takes longer than 10m0s: " + long,
		},
		"a wait whose reason changes": {
			outcome: func(pass int) step.Outcome { return step.Wait(0, fmt.Sprintf("Stage%d", pass), "On it.") },
			message: "Takes longer than 10m0s: On it.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pass := 0
			r := newRig(t, do("First", func(context.Context, *claim) step.Outcome { pass++; return tc.outcome(pass) }).Within(10*time.Minute))
			overdue := func() (n int) {
				for _, event := range r.events.take() {
					if strings.HasPrefix(event, "Warning Overdue: First: Takes longer than 10m0s: ") {
						n++
					}
				}
				return n
			}
			if got := r.mustPass().RequeueAfter; got != 10*time.Minute {
				t.Errorf("looks again in %s, want the deadline", got)
			}
			r.clock.SetTime(start.Add(9 * time.Minute))
			if got := r.mustPass().RequeueAfter; got != time.Minute {
				t.Errorf("looks again in %s, want what is left until the deadline", got)
			}
			if got := r.condition("First").Message; strings.Contains(got, "Takes longer") || overdue() > 0 {
				t.Errorf("overdue before the deadline: %q", got)
			}
			r.clock.SetTime(start.Add(10 * time.Minute))
			r.mustPass()
			if got := overdue(); got != 1 {
				t.Errorf("told %d times at the deadline, want once", got)
			}
			r.clock.SetTime(start.Add(20 * time.Minute))
			if got := r.mustPass().RequeueAfter; got != 0 {
				t.Errorf("looks again in %s after the deadline", got)
			}
			if got := overdue(); got != 0 {
				t.Errorf("told %d times more after the deadline", got)
			}
			if got := r.condition("First").Message; !strings.HasPrefix(tc.message, strings.TrimSuffix(got, "…")) || len(got) > 1000 || len(got) < 30 {
				t.Errorf("message %q, want %q", got, tc.message)
			}
		})
	}
}

func TestWithinStartsAnewAfterARecovery(t *testing.T) {
	t.Parallel()
	out := step.Wait(0, "Starting", "It starts.")
	r := newRig(t, do("First", following(&out)).Within(time.Minute))
	r.mustPass()
	r.clock.SetTime(start.Add(time.Hour))
	out = step.Done()
	r.mustPass()
	out = step.Wait(time.Hour, "Starting", "It starts.")
	if got := r.mustPass().RequeueAfter; got != time.Minute {
		t.Errorf("looks again in %s, want a whole deadline", got)
	}
	r.events.take()
	r.clock.SetTime(start.Add(61 * time.Minute))
	r.mustPass()
	want := []string{"Warning Overdue: First: Takes longer than 1m0s: It starts."}
	if diff := cmp.Diff(want, r.events.take()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestEventsTellTransitionsAlone(t *testing.T) {
	t.Parallel()
	var out step.Outcome
	r := newRig(t, do("First", following(&out)), do("Second", always(step.Done())))
	for _, stage := range []struct {
		say  string
		out  step.Outcome
		want []string
	}{
		{"waiting tells nothing", step.Wait(0, "Starting", "It starts."), nil},
		{"a failure tells", step.Failed("Refused", errors.New("refused")), []string{"Warning Refused: refused"}},
		{"the same reason tells nothing more", step.Failed("Refused", errors.New("refused again")), nil},
		{"another reason tells", step.Failed("Lost", errors.New("lost")), []string{"Warning Lost: lost"}},
		{"a block tells", step.Blocked("NotAllowed", "No."), []string{"Warning NotAllowed: No."}},
		{"the root becoming True tells", step.Done(), []string{"Normal Ready: All steps hold."}},
		{"staying True tells nothing", step.Done(), nil},
	} {
		out = stage.out
		_, _ = r.pass() // failures are the point here
		if diff := cmp.Diff(stage.want, r.events.take()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", stage.say, diff)
		}
	}
}

func TestALostRace(t *testing.T) {
	t.Parallel()
	r := newRig(t, do("First", always(step.Done().Note("Made", "Made it."))))
	r.mustPass()
	r.events.take()
	stale := r.read()
	meta.RemoveStatusCondition(&stale.Status.Conditions, "First")
	r.edit()
	newest := r.read()

	result, err := r.Reconcile(t.Context(), stale)
	if err != nil || result.RequeueAfter <= 0 || result.RequeueAfter > time.Second {
		t.Errorf("got %v, %v, want another look within a second", result, err)
	}
	if diff := cmp.Diff(newest, r.read()); diff != "" {
		t.Errorf("the stale pass changed the object (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Normal Made: Made it."}, r.events.take()); diff != "" {
		t.Errorf("what was done is told, what was not written is not (-want +got):\n%s", diff)
	}
	r.mustPass()
	if diff := cmp.Diff(map[string]string{"First": "True First g2", "Ready": "True Ready g2"}, r.conditions()); diff != "" {
		t.Errorf("after the next pass (-want +got):\n%s", diff)
	}
}

func TestAConflictInsideAStepIsNoCondition(t *testing.T) {
	t.Parallel()
	lost := apierrors.NewConflict(schema.GroupResource{Resource: "secrets"}, "app", errors.New("somebody was faster"))
	for name, failing := range map[string]step.Step[*claim]{
		"in a step":        do("First", always(step.Failed("NotWritten", fmt.Errorf("writing: %w", lost)))),
		"in an aside step": do("First", always(step.Failed("NotWritten", fmt.Errorf("writing: %w", lost)))).Aside(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, failing)
			result, err := r.pass()
			if err != nil || result.RequeueAfter <= 0 || result.RequeueAfter > time.Second {
				t.Errorf("got %v, %v, want another look within a second", result, err)
			}
			if got := r.conditions(); len(got) > 0 {
				t.Errorf("conditions %v were written", got)
			}
			if got := r.events.take(); len(got) > 0 {
				t.Errorf("events %q were told", got)
			}
		})
	}
}
