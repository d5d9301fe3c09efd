package role

import (
	"context"
	"fmt"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
)

// Preview says what keeping role would do now, and does none of it.
func (w *Worker) Preview(ctx context.Context, role *v1alpha1.RoleClaim) (backend.Preview, error) {
	var p backend.Preview
	s, err := w.open(ctx, role.DeepCopy())
	if err != nil {
		return p, err
	}
	if out := w.findSource(ctx, s); !out.IsDone() {
		p.Stops = out.Text()
		return p, nil
	}
	if s.role.Status.Credential == nil && !s.copies() {
		p.Objects = append(p.Objects, fmt.Sprintf("Secret %s/%s", s.role.Namespace, naming.Journal(naming.RoleKind, s.role.Name)))
	}
	if !s.rotation.Published() {
		p.Objects = append(p.Objects, fmt.Sprintf("Secret %s/%s", s.role.Namespace, s.rotation.SecretName))
	}
	if s.copies() {
		return p, nil
	}
	p.Statements, err = s.statements(ctx, w.Cluster)
	if err != nil {
		p.Stops = backend.Outcome(err).Text()
	}
	return p, nil
}

// statements are the role's grants and, when it has no login yet, its first.
func (s *scope) statements(ctx context.Context, cluster string) ([]postgres.Statement, error) {
	plan, err := s.decideMember(ctx, s.wantMember(cluster), postgres.DecideMember)
	if err != nil || s.role.Status.Credential != nil {
		return plan, err
	}
	first := s.logins.Want(naming.Login(s.owner(), 1))
	first.Verifier = "a new verifier"
	return append(plan, postgres.DecideLogin(first, postgres.LoginState{Name: first.Name}, postgres.Facts{})...), nil
}
