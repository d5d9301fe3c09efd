// Package claim keeps DatabaseClaims: it finds or makes the server, keeps the
// database and its logins as asked, publishes the Secret, and releases all of
// it when the claim goes. It also keeps DatabaseClasses from going while used.
package claim

import (
	"context"
	"time"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/step"
)

// Worker runs the steps of all claims.
type Worker struct {
	backend.Means
	verified backend.Verified
}

// Plan is what becomes of a DatabaseClaim, in order.
func (w *Worker) Plan() step.Plan[*v1alpha1.DatabaseClaim, *scope] {
	return step.Plan[*v1alpha1.DatabaseClaim, *scope]{
		Kind:      "DatabaseClaim",
		Finalizer: naming.Finalizer,
		Root:      v1alpha1.Ready,
		Open:      w.open,
		Up: []step.Step[*scope]{
			step.Do(v1alpha1.Admitted, w.admit), // no deadline: only a person can change the answer
			step.Do(v1alpha1.ServerReady, w.findServer).Within(15 * time.Minute),
			step.Do(v1alpha1.DatabaseReady, w.ensureDatabase).Within(time.Minute),
			step.Do(v1alpha1.CredentialReady, w.prepareCredential).Within(time.Minute),
			step.Do(v1alpha1.SecretPublished, w.publishSecret).Within(time.Minute),
			step.Do(v1alpha1.NoStaleLogin, w.retireStaleLogin).Within(24 * time.Hour).Aside(),
		},
		Down: []step.Step[*scope]{
			step.Do(v1alpha1.SecretWithdrawn, w.withdrawSecret).Within(time.Minute),
			step.Do(v1alpha1.Released, w.releaseDatabase).Within(releaseGrace),
		},
	}
}

func (w *Worker) prepareCredential(ctx context.Context, s *scope) step.Outcome {
	return s.rotation.Prepare(ctx)
}

func (w *Worker) publishSecret(ctx context.Context, s *scope) step.Outcome {
	return s.rotation.Publish(ctx)
}

func (w *Worker) retireStaleLogin(ctx context.Context, s *scope) step.Outcome {
	return s.rotation.Retire(ctx)
}

func (w *Worker) withdrawSecret(ctx context.Context, s *scope) step.Outcome {
	return s.rotation.Withdraw(ctx)
}
