package credential

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/step"
)

// staleLoginPoll is how often an old login's sessions are counted; nothing can be watched there.
const staleLoginPoll = 15 * time.Second

// Prepare sets and tests the next version's login when one is due. The order is
// journal, server, test; a crash anywhere repeats it with the same password.
func (r *Rotation) Prepare(ctx context.Context) step.Outcome {
	facts, err := r.facts(ctx)
	if err != nil {
		return step.Failed("JournalUnreadable", err)
	}
	due := Decide(facts)
	if due.Version == 0 && facts.Lost {
		return r.awaitIdle(ctx)
	}
	if due.Version == 0 {
		return step.Done()
	}
	if due.Urgent {
		if err := r.confirm(ctx); err != nil { // by an old status, sessions of the new login would be ended
			return step.Failed("StatusUnreadable", err)
		}
	}
	next, err := r.journalled(ctx, due.Version)
	if err != nil {
		return step.Failed("JournalNotWritten", err)
	}
	if facts.Published {
		r.pending = next
		return step.Done()
	}
	return r.setAndTest(ctx, next, due.Urgent)
}

// setAndTest makes the login of next usable and proves it; when urgent, it ends
// what sessions the login still has from an earlier version.
func (r *Rotation) setAndTest(ctx context.Context, next *entry, urgent bool) step.Outcome {
	login, out := naming.Login(r.Owner, next.version), step.Done()
	if err := r.server.SetLogin(ctx, login, Verifier(next.password)); err != nil {
		return r.explain(err)
	}
	if urgent {
		ended, err := r.server.EndSessions(ctx, login)
		if err != nil {
			return r.explain(err)
		}
		out = out.Note("SessionsEnded", "Revocation ended %d sessions of %s.", ended, login)
	}
	if err := r.server.TestLogin(ctx, login, next.password); err != nil {
		return r.explain(fmt.Errorf("testing login %s: %w", login, err))
	}
	r.pending = next
	return out
}

// awaitIdle closes the previous login, since a password that was lost together
// with its journal can only be replaced by one for the idle login.
func (r *Rotation) awaitIdle(ctx context.Context) step.Outcome {
	if out := r.Retire(ctx); !out.IsDone() {
		return out
	}
	return step.Wait(time.Second, PasswordLost, "The Secret and its journal are gone; a new password is made next.")
}

// facts gathers what Decide needs. The journal is read only when the Secret
// is not the one this process verified last.
func (r *Rotation) facts(ctx context.Context) (Facts, error) {
	current := *r.Current
	f := Facts{Now: r.keeper.Clock.Now(), Current: current, Spec: r.Spec}
	if current == nil {
		return f, nil
	}
	seen := r.keeper.sighting(r.Object.GetUID())
	if r.secret != nil && seen.verified == r.secret.ResourceVersion && seen.version == current.Version {
		return f, nil
	}
	journal, _, err := r.readJournal(ctx)
	if err != nil {
		return f, err
	}
	if journal != nil && journal.version == current.Version {
		r.pending = journal
		return f, nil
	}
	told := r.published()
	if journal != nil && journal.version > current.Version && alternate(journal.version, current.Version) {
		f.Journalled = journal.version
		f.Published = told == published{naming.Login(r.Owner, journal.version), journal.password}
	}
	f.Lost = !f.Published && (told.login != current.Login || told.password == "" ||
		r.server.TestLogin(ctx, current.Login, told.password) != nil)
	return f, nil
}

type published struct{ login, password string }

func (r *Rotation) published() published {
	if r.secret == nil {
		return published{}
	}
	return published{string(r.secret.Data[KeyUsername]), string(r.secret.Data[KeyPassword])}
}

// Publish brings the Secret to the newest tested version, or repairs it, and
// records in the status what it tells.
func (r *Rotation) Publish(ctx context.Context) step.Outcome {
	login, password := r.published().login, r.published().password
	if r.pending != nil {
		login, password = naming.Login(r.Owner, r.pending.version), r.pending.password
	}
	data, err := Data(r.Connect(login, password), r.Templates)
	if err != nil {
		return step.Blocked("TemplateInvalid", "%v", err)
	}
	if out := r.Write(ctx, data); !out.IsDone() {
		return out
	}
	now, out := r.keeper.Clock.Now(), step.Done()
	if current := *r.Current; r.pending != nil && (current == nil || r.pending.version > current.Version) {
		*r.Current = &v1alpha1.CredentialStatus{
			Login: login, Version: r.pending.version, PublishedAt: metav1.NewTime(now.Truncate(time.Second)),
		}
		if current != nil {
			(*r.Current).Previous, (*r.Current).PreviousVersion = current.Login, current.Version
			out = out.Note("Rotated", "Version %d with login %s is published.", r.pending.version, login)
		}
	}
	current := *r.Current
	if current.PublishedAt.After(now) { // the clock was set back, and the next rotation shall not wait for it
		current.PublishedAt = metav1.NewTime(now.Truncate(time.Second))
	}
	current.RotatesAt = metav1.NewTime(NextRotation(current.PublishedAt.Time, r.Policy.Period.Duration, string(r.Object.GetUID())))
	r.keeper.note(r.Object.GetUID(), func(s *sighting) {
		s.verified = r.secret.ResourceVersion
		if s.version != current.Version {
			s.version, s.since = current.Version, now
		}
	})
	if current.Previous != "" && !now.Before(current.RotatesAt.Time) {
		return out // due, but Retire has to see the previous login idle first, and asks for that look
	}
	return out.Again(max(time.Second, current.RotatesAt.Sub(now)))
}

// Write makes the Secret hold exactly data. A Secret that is not the tenant's is left alone.
func (r *Rotation) Write(ctx context.Context, data map[string][]byte) step.Outcome {
	want := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.key().Namespace, Name: r.SecretName}}
	if r.secret != nil {
		want = r.secret.DeepCopy()
	}
	before := want.DeepCopy()
	want.Data = data
	if want.Labels == nil {
		want.Labels = map[string]string{}
	}
	maps.Copy(want.Labels, naming.Labels(r.Kind, r.Object.GetName()))
	want.OwnerReferences = nil
	if err := controllerutil.SetControllerReference(r.Object, want, r.keeper.Client.Scheme()); err != nil {
		return step.Failed("SecretNotWritten", err)
	}
	var err error
	switch {
	case r.secret == nil:
		err = r.keeper.Client.Create(ctx, want)
	case !reflect.DeepEqual(before, want):
		err = r.keeper.Client.Update(ctx, want)
	}
	if apierrors.IsAlreadyExists(err) {
		return r.collide(ctx, data)
	}
	if err != nil {
		return step.Failed("SecretNotWritten", fmt.Errorf("writing Secret %s: %w", r.SecretName, err))
	}
	r.secret = want
	return step.Done()
}

// collide tells a Secret of ours that the cache does not show from one of somebody else.
func (r *Rotation) collide(ctx context.Context, data map[string][]byte) step.Outcome {
	there := &corev1.Secret{}
	if err := r.keeper.Live.Get(ctx, r.key(), there); err != nil {
		return step.Failed("SecretUnreadable", fmt.Errorf("reading Secret %s: %w", r.SecretName, err))
	}
	if r.owns(there) {
		r.secret = there
		return r.Write(ctx, data)
	}
	return step.Blocked("SecretNotOurs", "Secret %s exists and was not written for this %s. Choose another spec.secretName, or delete that Secret.",
		r.SecretName, r.Kind).Again(time.Minute)
}

// Retire records who reads the credential, and closes the previous login once
// the propagation time has passed, no proxy reports it and no session uses it.
// A revocation waits for none of these.
func (r *Rotation) Retire(ctx context.Context) step.Outcome {
	current := *r.Current
	if current == nil {
		return step.Done()
	}
	readers, before := r.readers(), *r.Consumers
	*r.Consumers = Summarize(readers, current.Login)
	out := step.Done()
	if current.Previous != "" {
		out = r.closePrevious(ctx, current, readers)
	}
	for _, t := range newTrouble(before, *r.Consumers) {
		out = out.Note("ProxyTrouble", "The proxy of pod %s serves with what it has: %s", t.Pod, t.Message)
	}
	return out
}

// closePrevious closes the login before the current one once nobody needs it.
func (r *Rotation) closePrevious(ctx context.Context, current *v1alpha1.CredentialStatus, readers []Reader) step.Outcome {
	out := step.Done()
	revoked := r.Spec.RevokedThrough >= max(1, current.PreviousVersion)
	if !revoked {
		if wait := r.awaitUnused(ctx, current, readers); !wait.IsDone() {
			return wait
		}
	}
	if err := r.confirm(ctx); err != nil {
		return step.Failed("StatusUnreadable", err)
	}
	if err := r.server.DisableLogin(ctx, current.Previous); err != nil {
		return r.explain(err)
	}
	if revoked {
		ended, err := r.server.EndSessions(ctx, current.Previous)
		if err != nil {
			return r.explain(err)
		}
		out = out.Note("Revoked", "Login %s is closed; %d sessions were ended.", current.Previous, ended)
	}
	current.Previous, current.PreviousVersion = "", 0
	if Decide(Facts{Now: r.keeper.Clock.Now(), Current: current, Spec: r.Spec}).Version > 0 {
		out = out.Again(time.Second) // a rotation waited for this
	}
	return out
}

// awaitUnused is done when nobody needs the previous login any more.
func (r *Rotation) awaitUnused(ctx context.Context, current *v1alpha1.CredentialStatus, readers []Reader) step.Outcome {
	if held := r.holdLeft(current); held > 0 {
		return step.Wait(held, "Propagating", "Login %s stays open until consumers have had %s to see version %d.",
			current.Previous, r.Policy.Hold(), current.Version)
	}
	if late := using(readers, func(login string) bool { return login == current.Previous }); len(late) > 0 {
		return step.Wait(0, "AwaitingProxies", "Login %s stays open while the proxies of these pods use it: %s. `berth revoke` does not wait.",
			current.Previous, list(late))
	}
	sessions, err := r.server.Sessions(ctx, current.Previous)
	if err != nil {
		return r.explain(err)
	}
	if sessions > 0 {
		return step.Wait(staleLoginPoll, "StaleLoginInUse", "Login %s still has sessions; rotation pauses until they end. `berth revoke` ends them.", current.Previous)
	}
	return step.Done()
}

// readers are the proxies that report; those without one are not known, so that
// the propagation time is waited for in any case.
func (r *Rotation) readers() []Reader {
	if r.keeper.Readers == nil {
		return nil
	}
	return r.keeper.Readers.Readers(r.Kind, client.ObjectKeyFromObject(r.Object))
}

func (r *Rotation) holdLeft(current *v1alpha1.CredentialStatus) time.Duration {
	now := r.keeper.Clock.Now()
	s := r.keeper.note(r.Object.GetUID(), func(s *sighting) {
		if s.version != current.Version {
			s.version, s.since = current.Version, now
		}
	})
	return r.Policy.Hold() - now.Sub(s.since)
}
