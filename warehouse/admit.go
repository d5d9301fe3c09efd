package warehouse

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/step"
)

// want begins the attempt that the spec asks for, or releases what there is.
func (w *Worker) want(ctx context.Context, s *scope) step.Outcome {
	if s.Spec.Deprovision {
		if out := w.release(ctx, s); !out.IsDone() {
			return out
		}
		return step.Wait(0, v1alpha1.ReasonDeleted, "Resources deleted")
	}
	if s.Status.Attempt != s.Spec.Attempt {
		s.Status.Attempt, s.Status.BegunAt = s.Spec.Attempt, &metav1.Time{Time: s.now}
		s.Status.ProvisioningStartedAt, s.Status.ReadyAt, s.Status.FailedAt = nil, nil, nil
		if s.Status.Composite != nil {
			s.Status.Composite.UID = "" // whatever is there now is the one
		}
	}
	return step.Done()
}

// admit checks what the warehouse depends on.
func (w *Worker) admit(_ context.Context, s *scope) step.Outcome {
	switch {
	case s.org == nil:
		return step.Wait(0, "OrgMissing", "There is no Org %s; its warehouse is made when there is.", s.Name)
	case !meta.IsStatusConditionTrue(s.org.Status.Conditions, v1alpha1.NameHeld):
		return step.Wait(0, "OrgNotReady", "Org %s does not have its database name %s yet.", s.Name, s.org.Database())
	case s.provider == nil:
		return s.fail(ProviderMissing, "This controller does not run provider %s.", s.Spec.Provider)
	}
	return step.Done()
}
