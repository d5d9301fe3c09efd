package role

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/step"
)

// findSource waits for the source claim, which wakes its role claims, and
// checks that it lets this namespace in.
func (w *Worker) findSource(ctx context.Context, s *scope) step.Outcome {
	if s.source == nil {
		return step.Wait(0, "ClaimNotFound", "There is no DatabaseClaim %s; this login waits for it.", sourceKey(s.role))
	}
	if out := decideAccess(s.role, s.source); !out.IsDone() {
		return out
	}
	if s.source.DeletionTimestamp != nil {
		return step.Wait(0, "ClaimDeleting", "DatabaseClaim %s is being deleted.", sourceKey(s.role))
	}
	if !meta.IsStatusConditionTrue(s.source.Status.Conditions, v1alpha1.Ready) || s.class == nil {
		return step.Wait(0, "ClaimNotReady", "DatabaseClaim %s is not Ready; `berth get` says why.", sourceKey(s.role))
	}
	s.role.Status.Database = s.source.Status.Database
	if s.copies() {
		return step.Done()
	}
	s.role.Status.Owner, s.role.Status.Server = s.owner(), s.source.Status.Server.DeepCopy()
	return w.reach(ctx, s)
}

// reach makes s.logins work on the source's server.
func (w *Worker) reach(ctx context.Context, s *scope) step.Outcome {
	admin, out := w.Finder.Find(ctx, s.source, s.class, false)
	if !out.IsDone() {
		return out
	}
	s.admin = admin
	*s.logins = backend.Logins{Server: w.Servers.Get(admin), Database: s.role.Status.Database, Owner: s.owner()}
	return step.Done()
}

// decideAccess keeps other namespaces' claims out of reach unless they open up.
func decideAccess(role *v1alpha1.RoleClaim, source *v1alpha1.DatabaseClaim) step.Outcome {
	if role.Namespace != source.Namespace && !slices.Contains(source.Spec.AllowedNamespaces, role.Namespace) {
		return step.Blocked("NamespaceNotAllowed", "DatabaseClaim %s/%s does not let namespace %s in. Its owner can add it to spec.allowedNamespaces.",
			source.Namespace, source.Name, role.Namespace)
	}
	if role.Spec.Class != "" && role.Spec.Class != source.Spec.Class {
		return step.Blocked("ClassMismatch", "spec.class is %s, but DatabaseClaim %s is of class %s; remove spec.class or set it to that.",
			role.Spec.Class, source.Name, source.Spec.Class)
	}
	return step.Done()
}
