package switchboard

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/switchboard/wire"
)

// member is a proxy that takes part in an operation. All here is of the board's
// lock, and only await takes it.
type member struct {
	session *session
	done    wire.Verb
	refusal string
}

// missing names the proxies that are not done. The caller has the lock.
func (o *Operation) missing() string {
	var late []string
	for _, m := range o.members {
		if m.done != o.stage {
			late = append(late, m.session.pod)
		}
	}
	if len(late) == 0 {
		return ""
	}
	slices.Sort(late)
	const most = 10
	text := "; not done: " + strings.Join(late[:min(len(late), most)], ", ")
	if len(late) > most {
		text += fmt.Sprintf(" and %d more", len(late)-most)
	}
	return text
}

// await returns when all are done with stage, one refuses, or ctx ends.
func (o *Operation) await(ctx context.Context, stage wire.Verb) error {
	for {
		o.board.mu.Lock()
		pods, err, wake := o.missing(), o.refusal(), o.wake
		over := o.stage != stage
		o.board.mu.Unlock()
		switch {
		case over:
			return context.Cause(o.ctx)
		case err != nil:
			return err
		case pods == "":
			return nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return fmt.Errorf("%w%s", context.Cause(ctx), pods)
		}
	}
}

func (o *Operation) refusal() error {
	for _, m := range o.members {
		if m.refusal != "" {
			return fmt.Errorf("the proxy of pod %s: %s", m.session.pod, m.refusal)
		}
	}
	return nil
}

// tell wakes whoever waits. The caller has the lock.
func (o *Operation) tell() {
	close(o.wake)
	o.wake = make(chan struct{})
}

func (o *Operation) member(s *session) {
	m := o.members[s.who.UID]
	if m == nil {
		m = &member{}
		o.members[s.who.UID] = m
	}
	m.session = s
}

// admit has a proxy that comes late take part, and one that is back answer anew.
func (o *Operation) admit(s *session) {
	delete(o.members, s.who.UID)
	o.member(s)
	if o.stage == wire.Retarget {
		s.send(o.directive(s.claim, wire.Pause))
	}
	s.send(o.directive(s.claim, o.stage))
	o.tell()
}

// dismiss forgets a proxy that is gone: it has no clients.
func (o *Operation) dismiss(s *session) {
	delete(o.members, s.who.UID)
	o.tell()
}

func (o *Operation) answered(s *session, outcome wire.Outcome) {
	m := o.members[s.who.UID]
	if m == nil || m.session != s || outcome.Generation != o.order.Generation {
		return
	}
	if m.done = outcome.Verb; outcome.Refusal != "" {
		m.refusal = cmp.Or(m.refusal, short(outcome.Refusal))
	}
	if m.refusal != "" && o.ctx.Err() == nil {
		o.fail(o.refusal())
	}
	o.tell()
}

func (o *Operation) directive(claim Claim, verb wire.Verb) wire.Directive {
	d := wire.Directive{Verb: verb, Generation: o.order.Generation}
	if verb == wire.Hold || verb == wire.Pause || verb == wire.Retarget {
		d.Budget = time.Until(o.deadline) + margin
	}
	if target, moves := o.order.Targets[claim]; moves && (verb == wire.Hold || verb == wire.Retarget) {
		to := toWire(target)
		d.Target = &to
	}
	return d
}

func toWire(t postgres.Target) wire.Target {
	return wire.Target{Host: t.Host, Port: t.Port, Database: t.Database, User: t.User, Password: t.Password, SSLMode: t.SSLMode, RootCA: t.RootCA}
}
