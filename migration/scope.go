package migration

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres/replication"
	"github.com/berth-dev/berth/step"
)

// scope is what one pass over one migration reads and finds.
type scope struct {
	migration *v1alpha1.Migration
	claim     *v1alpha1.DatabaseClaim // nil when there is none
	class     *v1alpha1.DatabaseClass // nil when there is none
}

// open reads the claim and its class. A claim that is going takes its migration
// along: two would work on its server.
func (w *Worker) open(ctx context.Context, m *v1alpha1.Migration) (*scope, error) {
	s := &scope{migration: m}
	claim := &v1alpha1.DatabaseClaim{}
	switch err := w.Client.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: m.Spec.Claim}, claim); {
	case apierrors.IsNotFound(err):
		return s, nil
	case err != nil:
		return nil, fmt.Errorf("reading claim %s: %w", m.Spec.Claim, err)
	}
	s.claim = claim
	if !claim.DeletionTimestamp.IsZero() && m.DeletionTimestamp.IsZero() && m.Status.Name != "" {
		if err := w.Client.Delete(ctx, m); client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("ending the migration of a deleted claim: %w", err)
		}
	}
	class := &v1alpha1.DatabaseClass{}
	switch err := w.Client.Get(ctx, client.ObjectKey{Name: claim.Spec.Class}, class); {
	case err == nil:
		s.class = class
	case client.IgnoreNotFound(err) != nil:
		return nil, fmt.Errorf("reading class %s: %w", claim.Spec.Class, err)
	}
	return s, nil
}

func (s *scope) key() types.NamespacedName { return client.ObjectKeyFromObject(s.claim) }

// wish is what a side's server is asked to be.
func (s *scope) wish(status *v1alpha1.ServerStatus, version string) backend.Server {
	wishes := backend.WishesOf(s.claim, s.class)
	wishes.Version = version
	return backend.Server{ID: status.ID, Class: s.class, Wishes: wishes}
}

// server finds how to administer one side.
func (w *Worker) server(ctx context.Context, s *scope, status *v1alpha1.ServerStatus, version string, create bool) (replication.Side, step.Outcome) {
	var side replication.Side
	b := w.Finder.Backends[s.class.Spec.Backend]
	if b == nil {
		return side, step.Blocked("BackendMissing", "This controller does not run backend %s.", s.class.Spec.Backend)
	}
	want := s.wish(status, version)
	found, err := b.Observe(ctx, want)
	if err != nil {
		return side, backend.Outcome(err)
	}
	if !found.Usable {
		if found.Exists || create {
			if err := b.Apply(ctx, want); err != nil {
				return side, backend.Outcome(err)
			}
		}
		return side, found.Finding()
	}
	side.Admin = found.Admin
	side.Admin.Database = s.claim.Status.Database
	return side, step.Done()
}

// pair is the move as it was asked for, whoever serves now.
func (w *Worker) pair(ctx context.Context, s *scope) (replication.Pair, step.Outcome) {
	m := s.migration
	p := replication.Pair{Name: m.Status.Name, NewSecret: func() (string, string) {
		secret := rand.Text()
		return secret, credential.Verifier(secret)
	}}
	major, err := strconv.Atoi(majorOf(m.Status.Source.Version))
	if err != nil {
		return p, step.Blocked("VersionUnknown", "The version %q of the source says no major.", m.Status.Source.Version)
	}
	if p.Tools, err = w.Tools(major); err != nil {
		return p, step.Blocked("ToolsMissing", "%v", err).Again(secondLook)
	}
	var out step.Outcome
	if p.From, out = w.server(ctx, s, m.Status.Source, majorOf(m.Status.Source.Version), false); !out.IsDone() {
		return p, out
	}
	p.To, out = w.server(ctx, s, m.Status.Target, m.Spec.To.Version, false)
	return p, out
}

// serving is the side that has the clients, as the status records it.
func (s *scope) serving() string { return cmp.Or(s.migration.Status.Serving, v1alpha1.SideSource) }

// begun reports whether the migration ever touched a server.
func (s *scope) begun() bool {
	return s.migration.Status.Name != "" && s.claim != nil && s.class != nil
}

func (s *scope) targetID() string {
	return naming.SuccessorServer(s.claim.Namespace, s.claim.Name, s.migration.Spec.To.Version)
}
