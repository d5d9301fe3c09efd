package step

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// conflictRetry is how soon a pass that lost a write race looks again: long
// enough for the watch to deliver what it lost to.
const conflictRetry = 100 * time.Millisecond

// Reconciler runs a Plan. Watch its kind with predicate.GenerationChangedPredicate,
// or its own status writes wake it.
type Reconciler[T Object, S any] struct {
	Client client.Client
	Events events.EventRecorder
	Clock  clock.PassiveClock
	Plan   Plan[T, S]
}

// Reconcile makes one pass: at most one status write, guarded by the resource
// version, and none when nothing changed.
func (r *Reconciler[T, S]) Reconcile(ctx context.Context, obj T) (ctrl.Result, error) {
	down := !obj.GetDeletionTimestamp().IsZero()
	if down && !controllerutil.ContainsFinalizer(obj, r.Plan.Finalizer) {
		return ctrl.Result{}, nil
	}
	before := obj.DeepCopyObject().(T)
	if !down && controllerutil.AddFinalizer(obj, r.Plan.Finalizer) {
		if err := r.Client.Patch(ctx, obj, guarded(before)); err != nil {
			return settle(err)
		}
		before = obj.DeepCopyObject().(T)
	}

	p := &pass[T, S]{plan: &r.Plan, obj: obj, now: r.Clock.Now(), down: down}
	out := p.run(ctx)
	r.emit(obj, p.notes) // they tell what was done, whatever becomes of the status
	if apierrors.IsConflict(out.err) {
		return settle(out.err)
	}
	*obj.ObservedGeneration() = obj.GetGeneration()

	if down && out.IsDone() {
		controllerutil.RemoveFinalizer(obj, r.Plan.Finalizer)
		if err := r.Client.Patch(ctx, obj, guarded(before)); err != nil {
			return settle(err)
		}
		r.tell(obj, p)
		return ctrl.Result{}, nil
	}
	if !equality.Semantic.DeepEqual(before, obj) {
		if err := r.Client.Status().Patch(ctx, obj, guarded(before)); err != nil {
			return settle(err)
		}
	}
	r.tell(obj, p)
	if out.err != nil {
		return ctrl.Result{}, out.err
	}
	return ctrl.Result{RequeueAfter: out.after}, nil
}

func guarded(before client.Object) client.Patch {
	return client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
}

// settle turns a lost race into another look, and an object that is gone into success.
func settle(err error) (ctrl.Result, error) {
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: conflictRetry}, nil
	}
	return ctrl.Result{}, client.IgnoreNotFound(err)
}

// tell emits what the pass decided, after the status it belongs to was written.
func (r *Reconciler[T, S]) tell(obj T, p *pass[T, S]) {
	for _, t := range p.transitions {
		transitions.WithLabelValues(r.Plan.Kind, t.Type, string(t.Status), t.Reason).Inc()
	}
	for _, condition := range p.overdue {
		overdue.WithLabelValues(r.Plan.Kind, condition).Inc()
	}
	r.emit(obj, p.events)
}

func (r *Reconciler[T, S]) emit(obj T, list []event) {
	for _, e := range list {
		r.Events.Eventf(obj, nil, e.kind, e.reason, "Reconcile", "%s", e.message)
	}
}

// pass is one walk over the steps of one object.
type pass[T Object, S any] struct {
	plan        *Plan[T, S]
	obj         T
	now         time.Time
	down        bool
	transitions []metav1.Condition
	overdue     []string
	events      []event
	notes       []event
}

type event struct{ kind, reason, message string }

// run stops at the first step that is not done. Later conditions keep their
// last observation, or become Unknown if there never was one.
func (p *pass[T, S]) run(ctx context.Context) Outcome {
	steps := p.plan.Up
	if p.down {
		steps = p.plan.Down
	}
	scope, err := p.plan.Open(ctx, p.obj)
	if err != nil {
		out := Failed(ReadFailed, fmt.Errorf("reading what %s needs: %w", p.obj.GetName(), err))
		p.conclude(out)
		p.warn(p.plan.Root, out)
		return out
	}
	var verdict Outcome
	var soonest time.Duration
	var beside error
	for _, s := range steps {
		if !verdict.IsDone() {
			if meta.FindStatusCondition(*p.obj.Conditions(), s.condition) == nil {
				p.set(s.condition, metav1.ConditionUnknown, NotReached, "")
			}
			continue
		}
		if p.plan.Batch && meta.IsStatusConditionTrue(*p.obj.Conditions(), s.condition) {
			continue
		}
		out := p.take(ctx, s, scope)
		soonest = sooner(soonest, out.after)
		if s.aside {
			beside = cmp.Or(beside, out.err)
		} else {
			verdict = out
		}
	}
	p.conclude(verdict)
	verdict.after, verdict.err = soonest, cmp.Or(verdict.err, beside)
	return verdict
}

// take runs one step and records its condition; the outcome's after includes the deadline.
func (p *pass[T, S]) take(ctx context.Context, s Step[S], scope S) Outcome {
	started := time.Now()
	out := s.run(ctx, scope)
	seconds.WithLabelValues(p.plan.Kind, s.condition).Observe(time.Since(started).Seconds())
	for _, n := range out.notes {
		p.notes = append(p.notes, event{corev1.EventTypeNormal, n.reason, n.message})
	}
	if out.IsDone() {
		p.set(s.condition, metav1.ConditionTrue, s.condition, "")
		return out
	}
	since := p.now
	if c := meta.FindStatusCondition(*p.obj.Conditions(), s.condition); c != nil && c.Status == metav1.ConditionFalse {
		since = c.LastTransitionTime.Time
	}
	if s.within > 0 {
		if left := s.within - p.now.Sub(since); left > 0 {
			out.after = sooner(out.after, left)
		} else {
			out.message = p.late(s, out)
		}
	}
	p.set(s.condition, metav1.ConditionFalse, out.reason, out.message)
	p.warn(s.condition, out)
	return out
}

// late puts before the message that the condition is past its deadline, and
// tells it once: while the condition stays untrue, its last message says so too.
func (p *pass[T, S]) late(s Step[S], out Outcome) string {
	prefix := fmt.Sprintf("Takes longer than %s: ", s.within)
	message := bounded("%s%s", prefix, out.message)
	if c := meta.FindStatusCondition(*p.obj.Conditions(), s.condition); c == nil || !strings.HasPrefix(c.Message, prefix) {
		p.overdue = append(p.overdue, s.condition)
		p.events = append(p.events, event{corev1.EventTypeWarning, Overdue, bounded("%s: %s", s.condition, message)})
	}
	return message
}

// warn tells that a condition came to need a person, or another try.
func (p *pass[T, S]) warn(condition string, out Outcome) {
	if meta.FindStatusCondition(p.transitions, condition) != nil && (out.verdict == blocked || out.verdict == failed) {
		p.events = append(p.events, event{corev1.EventTypeWarning, out.reason, out.message})
	}
}

// conclude writes the root condition and Stalled from what stopped the pass.
func (p *pass[T, S]) conclude(out Outcome) {
	if out.verdict == blocked {
		p.set(Stalled, metav1.ConditionTrue, out.reason, out.message)
	} else {
		meta.RemoveStatusCondition(p.obj.Conditions(), Stalled)
	}
	switch {
	case p.down:
		p.set(p.plan.Root, metav1.ConditionFalse, Deleting, bounded("%s", cmp.Or(out.Text(), "Everything is released.")))
	case out.IsDone():
		p.set(p.plan.Root, metav1.ConditionTrue, p.plan.Root, "")
	default:
		p.set(p.plan.Root, metav1.ConditionFalse, out.reason, out.message)
	}
	if c := meta.FindStatusCondition(p.transitions, p.plan.Root); c != nil && c.Status == metav1.ConditionTrue {
		p.events = append(p.events, event{corev1.EventTypeNormal, c.Reason, "All steps hold."})
	}
}

// set records a condition, and a transition when its status or reason changed.
func (p *pass[T, S]) set(kind string, status metav1.ConditionStatus, reason, message string) {
	old := meta.FindStatusCondition(*p.obj.Conditions(), kind)
	c := metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message,
		ObservedGeneration: p.obj.GetGeneration(), LastTransitionTime: metav1.NewTime(p.now),
	}
	if old == nil || old.Status != status || old.Reason != reason {
		p.transitions = append(p.transitions, c)
	}
	if old != nil && old.Status == status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	meta.SetStatusCondition(p.obj.Conditions(), c)
}

func sooner(a, b time.Duration) time.Duration {
	if a == 0 || (b > 0 && b < a) {
		return b
	}
	return a
}
