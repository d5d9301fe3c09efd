package switchboard_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/switchboard"
	"github.com/berth-dev/berth/switchboard/wire"
)

func TestAnOperationIsOneForAllProxies(t *testing.T) {
	t.Parallel()
	e := serve(t)
	claim := e.Claim(testkit.Namespace(t), "orders")
	other := e.Claim(claim.Namespace, "reports")
	all := []*proxy{join(t, e, claim, "pod-0", obedient), join(t, e, claim, "pod-1", obedient), join(t, e, other, "pod-2", obedient)}
	op, err := e.Hold(t.Context(), order(e, claim, other))
	check(t, err)
	check(t, op.Pause(t.Context(), 5*time.Second))
	check(t, op.Retarget(t.Context()))
	if op.Proxies() != 3 || op.Context().Err() != nil {
		t.Errorf("%d proxies take part; it is over: %v", op.Proxies(), op.Context().Err())
	}
	check(t, op.Resume(t.Context()))
	for _, p := range all {
		for _, verb := range []wire.Verb{wire.Hold, wire.Pause, wire.Retarget, wire.Resume} {
			d := p.expect(verb)
			if d.Generation != 1 {
				t.Errorf("%s is of generation %d", verb, d.Generation)
			}
			if told := d.Target != nil && d.Target.Password == password; told != (verb == wire.Hold || verb == wire.Retarget) {
				t.Errorf("%s tells the target: %t", verb, told)
			}
		}
	}
	if op.Context().Err() == nil {
		t.Error("it goes on")
	}
	op.Abort(t.Context())
	if err := op.Pause(t.Context(), time.Second); err == nil {
		t.Error("an operation that is over pauses again")
	}
}

func TestAPauseFailsAsAWhole(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer func(wire.Directive) (string, bool)
		err    string
	}{
		"when one does not answer in time": {func(d wire.Directive) (string, bool) { return "", d.Verb == wire.Pause }, "the budget is over; not done: pod-1"},
		"when one refuses": {func(d wire.Directive) (string, bool) {
			if d.Verb == wire.Pause {
				return "the pod is ending", false
			}
			return "", false
		}, "the proxy of pod pod-1: the pod is ending"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := serve(t)
			claim := e.Claim(testkit.Namespace(t), "orders")
			good := join(t, e, claim, "pod-0", obedient)
			join(t, e, claim, "pod-1", tc.answer)
			op, err := e.Hold(t.Context(), order(e, claim))
			check(t, err)
			began := time.Now()
			err = op.Pause(t.Context(), 400*time.Millisecond)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("it fails after %v", took)
			}
			if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "pod-0") {
				t.Errorf("got %v", err)
			}
			good.expect(wire.Hold)
			good.expect(wire.Pause)
			good.expect(wire.Abort)
			if err := op.Retarget(t.Context()); err == nil {
				t.Error("it goes on all the same")
			}
		})
	}
}

// The caller has died, or hangs: the switchboard itself ends the pause.
func TestABudgetEndsWithoutItsCaller(t *testing.T) {
	t.Parallel()
	e := serve(t)
	claim := e.Claim(testkit.Namespace(t), "orders")
	p := join(t, e, claim, "pod-0", obedient)
	op, err := e.Hold(t.Context(), order(e, claim))
	check(t, err)
	check(t, op.Pause(t.Context(), 300*time.Millisecond))
	p.expect(wire.Hold)
	if d := p.expect(wire.Pause); d.Budget <= 300*time.Millisecond || d.Budget > time.Second {
		t.Errorf("the proxy's own budget is %v: it has to outlast the switchboard's", d.Budget)
	}
	p.expect(wire.Abort)
	<-op.Context().Done()
	if err := op.Resume(t.Context()); err == nil {
		t.Error("it resumes what was given back already")
	}
}

func TestGenerations(t *testing.T) {
	t.Parallel()
	e := serve(t)
	claim := e.Claim(testkit.Namespace(t), "orders")
	p := join(t, e, claim, "pod-0", obedient)
	first, err := e.Hold(t.Context(), order(e, claim))
	check(t, err)
	second, err := e.Hold(t.Context(), order(e, claim))
	check(t, err)
	if err := first.Pause(t.Context(), time.Second); err == nil || !strings.Contains(err.Error(), "higher generation") {
		t.Errorf("the first goes on beside the second: %v", err)
	}
	second.Abort(t.Context())
	again := order(e, claim)
	again.Generation = 2
	if _, err := e.Hold(t.Context(), again); !errors.Is(err, switchboard.ErrStale) {
		t.Errorf("a generation is used twice: %v", err)
	}
	p.hangUp()
	p.call(wire.Hello{Version: wire.Version, Claim: claim.Name, Generation: 41})
	if got := e.Generation(claim); got != 41 {
		t.Errorf("generation %d, want what the proxy has seen of another leader", got)
	}
	third, err := e.Hold(t.Context(), order(e, claim))
	check(t, err)
	p.hangUp()
	p.call(wire.Hello{Version: wire.Version, Claim: claim.Name, Generation: 43})
	if third.Context().Err() == nil {
		t.Error("an operation goes on though a proxy has obeyed a newer one")
	}
}

func TestAProxyThatComesInAPauseIsPaused(t *testing.T) {
	t.Parallel()
	e := serve(t)
	claim := e.Claim(testkit.Namespace(t), "orders")
	old := join(t, e, claim, "pod-0", obedient)
	op, err := e.Hold(t.Context(), order(e, claim))
	check(t, err)
	check(t, op.Pause(t.Context(), 10*time.Second))
	late := join(t, e, claim, "pod-1", obedient)
	if d := late.expect(wire.Pause); d.Budget > 10*time.Second+time.Second {
		t.Errorf("it may pause for %v", d.Budget)
	}
	old.hangUp()
	old.call(wire.Hello{Version: wire.Version, Claim: claim.Name, Generation: 1})
	old.expect(wire.Pause)
	check(t, op.Retarget(t.Context()))
	third := join(t, e, claim, "pod-2", obedient)
	third.expect(wire.Pause)
	third.expect(wire.Retarget)
	check(t, op.Resume(t.Context()))
	third.expect(wire.Resume)
}

func TestAProxyWhoseStreamBrokeFailsThePause(t *testing.T) {
	t.Parallel()
	e := serve(t)
	claim := e.Claim(testkit.Namespace(t), "orders")
	p := join(t, e, claim, "pod-0", obedient)
	op, err := e.Hold(t.Context(), order(e, claim))
	check(t, err)
	p.hangUp()
	for range p.got { // until the stream has ended
	}
	if err := op.Pause(t.Context(), 300*time.Millisecond); err == nil || !strings.Contains(err.Error(), "pod-0") {
		t.Errorf("got %v", err)
	}
}

func TestStragglersAreSentAfterTheOthers(t *testing.T) {
	t.Parallel()
	e := serve(t)
	claim := e.Claim(testkit.Namespace(t), "orders")
	deaf := join(t, e, claim, "pod-0", func(d wire.Directive) (string, bool) {
		if d.Verb == wire.Resume {
			return "generation 1 is over here", false
		}
		return "", false
	})
	op, err := e.Hold(t.Context(), order(e, claim))
	check(t, err)
	check(t, op.Pause(t.Context(), 5*time.Second))
	check(t, op.Retarget(t.Context()))
	if err := op.Resume(t.Context()); err == nil || !strings.Contains(err.Error(), "pod-0") {
		t.Errorf("got %v, want who did not go on", err)
	}
	for _, verb := range []wire.Verb{wire.Hold, wire.Pause, wire.Retarget, wire.Resume} {
		deaf.expect(verb)
	}
	for _, p := range []*proxy{deaf, join(t, e, claim, "pod-1", obedient)} {
		if d := p.expect(wire.Follow); d.Target == nil || d.Target.Host != target.Host {
			t.Errorf("it is sent to %v", d.Target)
		}
	}
	there := &proxy{t: t, e: e, answer: obedient, client: newClient(t, e)}
	there.token = e.Token(claim.Namespace, e.Pod(claim.Namespace, "pod-2", "orders", "orders"), wire.Audience)
	there.call(wire.Hello{Version: wire.Version, Claim: "orders", Usage: wire.Usage{Login: "orders_b", Server: "new:5432/orders"}})
	next, err := e.Hold(t.Context(), order(e, claim))
	check(t, err)
	there.expect(wire.Hold) // and nothing before: it was there
	next.Abort(t.Context())
}

func TestOneClaimsSlowProxyDelaysNoOther(t *testing.T) {
	t.Parallel()
	e := serve(t)
	namespace := testkit.Namespace(t)
	slow, quick := e.Claim(namespace, "slow"), e.Claim(namespace, "quick")
	join(t, e, slow, "pod-0", silent)
	join(t, e, quick, "pod-1", obedient)
	waiting, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := e.Hold(waiting, order(e, slow))
		ended <- err
	}()
	for range 20 {
		began := time.Now()
		op, err := e.Hold(t.Context(), order(e, quick))
		check(t, err)
		check(t, op.Pause(t.Context(), time.Second))
		check(t, op.Resume(t.Context()))
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("a pause takes %v beside another claim's", took)
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("the slow claim's operation has ended: %v", err)
	default:
	}
	cancel()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "pod-0") {
		t.Errorf("got %v", err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
