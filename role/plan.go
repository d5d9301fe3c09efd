// Package role keeps RoleClaims: an extra login on a claim's database with
// exactly the rights its schema role map names, or a copy of the claim's Secret.
package role

import (
	"context"
	"time"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/step"
)

// Worker runs the steps of all role claims.
type Worker struct {
	backend.Means
	verified backend.Verified
}

// Plan is what becomes of a RoleClaim, in order.
func (w *Worker) Plan() step.Plan[*v1alpha1.RoleClaim, *scope] {
	return step.Plan[*v1alpha1.RoleClaim, *scope]{
		Kind:      "RoleClaim",
		Finalizer: naming.Finalizer,
		Root:      v1alpha1.Ready,
		Open:      w.open,
		Up: []step.Step[*scope]{
			step.Do(v1alpha1.SourceReady, w.findSource).Within(15 * time.Minute),
			step.Do(v1alpha1.RoleReady, w.ensureRole).Within(time.Minute),
			step.Do(v1alpha1.CredentialReady, w.prepareCredential).Within(time.Minute),
			step.Do(v1alpha1.SecretPublished, w.publishSecret).Within(time.Minute),
			step.Do(v1alpha1.NoStaleLogin, w.retireStaleLogin).Within(24 * time.Hour).Aside(),
		},
		Down: []step.Step[*scope]{
			step.Do(v1alpha1.SecretWithdrawn, w.withdrawSecret).Within(time.Minute),
			step.Do(v1alpha1.Released, w.releaseRole).Within(releaseGrace),
		},
	}
}

func (w *Worker) prepareCredential(ctx context.Context, s *scope) step.Outcome {
	if s.copies() {
		return step.Done()
	}
	return s.rotation.Prepare(ctx)
}

func (w *Worker) publishSecret(ctx context.Context, s *scope) step.Outcome {
	if s.copies() {
		return w.publishCopy(ctx, s)
	}
	return s.rotation.Publish(ctx)
}

func (w *Worker) retireStaleLogin(ctx context.Context, s *scope) step.Outcome {
	if s.copies() {
		return step.Done()
	}
	return s.rotation.Retire(ctx)
}

func (w *Worker) withdrawSecret(ctx context.Context, s *scope) step.Outcome {
	return s.rotation.Withdraw(ctx)
}
