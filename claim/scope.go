package claim

import (
	"cmp"
	"context"
	"fmt"

	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
)

// scope is what one pass over one claim reads and finds.
type scope struct {
	claim    *v1alpha1.DatabaseClaim
	class    *v1alpha1.DatabaseClass // nil when there is none
	rotation *credential.Rotation
	logins   *backend.Logins // Server is set once the server is found
	admin    postgres.Target
}

// open reads the class and the Secret; everything else is read by the step that needs it.
func (w *Worker) open(ctx context.Context, claim *v1alpha1.DatabaseClaim) (*scope, error) {
	s := &scope{claim: claim, logins: &backend.Logins{}}
	class := &v1alpha1.DatabaseClass{}
	switch err := w.Client.Get(ctx, client.ObjectKey{Name: claim.Spec.Class}, class); {
	case err == nil:
		s.class = class
	case client.IgnoreNotFound(err) != nil:
		return nil, fmt.Errorf("reading class %s: %w", claim.Spec.Class, err)
	}
	tenant := credential.Tenant{
		Object: claim, Kind: naming.ClaimKind, SecretName: SecretName(claim), Owner: s.owner(),
		Spec: claim.Spec.Rotation, Templates: claim.Spec.SecretTemplate,
		Consumers: &claim.Status.Consumers, Current: &claim.Status.Credential, Connect: s.connect,
	}
	if s.class != nil {
		tenant.Password, tenant.Policy = s.class.Spec.Password, s.class.Spec.Rotation
	}
	rotation, err := w.Keeper.Open(ctx, tenant, s.logins, backend.Outcome)
	s.rotation = rotation
	return s, err
}

// SecretName is the Secret that claim publishes.
func SecretName(claim *v1alpha1.DatabaseClaim) string {
	return cmp.Or(claim.Spec.SecretName, claim.Name)
}

// external reports whether the claim brings its own database.
func (s *scope) external() bool { return ptr.Deref(s.claim.Spec.UseExistingSource, false) }

func (s *scope) owner() string {
	return cmp.Or(s.claim.Status.Owner, s.claim.Spec.UserName, naming.Owner(s.claim.Namespace, s.claim.Name))
}

func (s *scope) database() string {
	return cmp.Or(s.claim.Status.Database, s.claim.Spec.DatabaseName, naming.Owner(s.claim.Namespace, s.claim.Name))
}

// key names the claim in markers.
func (s *scope) key() string { return s.claim.Namespace + "/" + s.claim.Name }

// connect is how a tenant reaches the claim's database with a login.
func (s *scope) connect(login, password string) credential.Connection {
	t := s.admin
	t.User, t.Password, t.Database = login, password, s.database()
	if !s.external() {
		t.SSLMode = s.class.Spec.SSLMode
	}
	return backend.Connection(t)
}
