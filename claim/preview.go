package claim

import (
	"context"
	"fmt"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/step"
)

// Preview says what keeping claim would do now, and does none of it. The
// claim's status, if it has one, is what the API server holds.
func (w *Worker) Preview(ctx context.Context, claim *v1alpha1.DatabaseClaim) (backend.Preview, error) {
	var p backend.Preview
	s, err := w.open(ctx, claim.DeepCopy())
	if err != nil {
		return p, err
	}
	if out := w.admit(ctx, s); !out.IsDone() {
		p.Stops = out.Text()
		return p, nil
	}
	p.Objects = s.objects()
	if s.claim.Status.Server == nil {
		s.claim.Status.Server = &v1alpha1.ServerStatus{ID: backend.ServerID(s.claim, s.class)}
	}
	if out := w.look(ctx, s, &p); !out.IsDone() {
		p.Stops = out.Text()
		return p, nil
	}
	want := s.wantDatabase(w.Cluster)
	if s.logins.Server == nil { // the server is yet to be made, and empty then
		p.Statements, err = postgres.DecideDatabase(want, postgres.DatabaseState{Role: postgres.RoleState{Name: want.Owner}}, postgres.Facts{Superuser: true, Version: newServerVersion})
	} else {
		p.Statements, err = s.decideDatabase(ctx, want)
	}
	if err != nil {
		p.Stops = backend.Outcome(err).Text()
		return p, nil
	}
	if s.claim.Status.Credential == nil {
		first := s.logins.Want(naming.Login(want.Owner, 1))
		first.Owner, first.Session, first.Verifier = want.Owner, want.Owner, "a new verifier"
		p.Statements = append(p.Statements, postgres.DecideLogin(first, postgres.LoginState{Name: first.Name}, postgres.Facts{})...)
	}
	return p, nil
}

// newServerVersion only has to be one for which every statement of a new
// database is the same.
const newServerVersion = 170000

// look finds the server without making or starting it.
func (w *Worker) look(ctx context.Context, s *scope, p *backend.Preview) step.Outcome {
	if !s.external() {
		found, err := w.Finder.Backends[s.class.Spec.Backend].Observe(ctx, backend.Server{
			ID: s.claim.Status.Server.ID, Class: s.class, Wishes: backend.WishesOf(s.claim, s.class)})
		switch {
		case err != nil:
			return backend.Outcome(err)
		case !found.Exists && !found.Permanent:
			p.Objects = append(p.Objects, fmt.Sprintf("server %s (backend %s)", s.claim.Status.Server.ID, s.class.Spec.Backend))
			return step.Done()
		case !found.Usable:
			return found.Finding()
		}
	}
	return w.reach(ctx, s, false)
}

// objects are what berth would write in Kubernetes.
func (s *scope) objects() []string {
	var objects []string
	if s.claim.Status.Credential == nil {
		objects = append(objects, fmt.Sprintf("Secret %s/%s", s.claim.Namespace, naming.Journal(naming.ClaimKind, s.claim.Name)))
	}
	if !s.rotation.Published() {
		objects = append(objects, fmt.Sprintf("Secret %s/%s", s.claim.Namespace, SecretName(s.claim)))
	}
	return objects
}

// PreviewClass says what keeping class would do now, and does none of it.
func (w *Worker) PreviewClass(ctx context.Context, class *v1alpha1.DatabaseClass) (backend.Preview, error) {
	var p backend.Preview
	b, id := w.Finder.Backends[class.Spec.Backend], naming.SharedServer(class.Name)
	if b == nil || class.Spec.Dedicated {
		return p, nil
	}
	found, err := b.Observe(ctx, backend.Server{ID: id, Class: class})
	switch {
	case err != nil:
		p.Stops = backend.Outcome(err).Text()
	case !found.Exists && !found.Permanent && class.Spec.Server == nil:
		p.Objects = []string{fmt.Sprintf("server %s (backend %s)", id, class.Spec.Backend)}
	case !found.Usable:
		p.Stops = found.Finding().Text()
	}
	return p, nil
}
