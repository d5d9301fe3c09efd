package role

import (
	"cmp"
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
)

// scope is what one pass over one role claim reads and finds.
type scope struct {
	role     *v1alpha1.RoleClaim
	source   *v1alpha1.DatabaseClaim // nil when there is none
	class    *v1alpha1.DatabaseClass // nil when there is none
	rotation *credential.Rotation
	logins   *backend.Logins // Server is set once the source is Ready
	admin    postgres.Target
}

// open reads the source claim, its class and the role's own Secret.
func (w *Worker) open(ctx context.Context, role *v1alpha1.RoleClaim) (*scope, error) {
	s := &scope{role: role, logins: &backend.Logins{}}
	source := &v1alpha1.DatabaseClaim{}
	switch err := w.Client.Get(ctx, sourceKey(role), source); {
	case err == nil:
		s.source = source
	case client.IgnoreNotFound(err) != nil:
		return nil, fmt.Errorf("reading DatabaseClaim %s: %w", sourceKey(role), err)
	}
	tenant := credential.Tenant{
		Object: role, Kind: naming.RoleKind, SecretName: cmp.Or(role.Spec.SecretName, role.Name), Owner: s.owner(),
		Spec: role.Spec.Rotation, Consumers: &role.Status.Consumers, Current: &role.Status.Credential, Connect: s.connect,
	}
	if s.source != nil {
		class := &v1alpha1.DatabaseClass{}
		switch err := w.Client.Get(ctx, client.ObjectKey{Name: source.Spec.Class}, class); {
		case err == nil:
			s.class, tenant.Password, tenant.Policy = class, class.Spec.Password, class.Spec.Rotation
		case client.IgnoreNotFound(err) != nil:
			return nil, fmt.Errorf("reading class %s: %w", source.Spec.Class, err)
		}
	}
	rotation, err := w.Keeper.Open(ctx, tenant, s.logins, backend.Outcome)
	s.rotation = rotation
	return s, err
}

func sourceKey(role *v1alpha1.RoleClaim) client.ObjectKey {
	ref := role.Spec.SourceDatabaseClaim
	return client.ObjectKey{Namespace: cmp.Or(ref.Namespace, role.Namespace), Name: ref.Name}
}

// copies reports whether the role claim is a copy of its claim's Secret.
func (s *scope) copies() bool { return len(s.role.Spec.SchemaRoleMap) == 0 }

func (s *scope) owner() string {
	return cmp.Or(s.role.Status.Owner, s.role.Spec.UserName, naming.RoleOwner(s.role.Namespace, s.role.Name))
}

// connect is how a tenant reaches the claim's database with a login of the role.
func (s *scope) connect(login, password string) credential.Connection {
	t := s.admin
	t.User, t.Password, t.Database = login, password, s.source.Status.Database
	if s.source.Status.Server.Backend != backend.Source {
		t.SSLMode = s.class.Spec.SSLMode
	}
	return backend.Connection(t)
}
