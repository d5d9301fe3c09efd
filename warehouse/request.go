package warehouse

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/step"
)

// request has the provider hold what the spec asks for, and records what there
// is. It makes something only where the API server says that nothing is.
func (w *Worker) request(ctx context.Context, s *scope) step.Outcome {
	found, err := s.provider.Observe(ctx, s.Warehouse)
	if err != nil {
		return s.refused(err)
	}
	w.watch(s.Spec.Provider, s.provider)
	lost := s.Status.ReadyAt != nil && s.Status.Composite != nil && s.Status.Composite.UID != ""
	switch {
	case found.Terminating:
		return s.unready("Terminating", "An earlier %s %s is still being deleted.", found.Composite.Kind, found.Composite.Name)
	case lost && found.Composite.UID != s.Status.Composite.UID:
		s.failed()
		return step.Blocked("CompositeLost", "%s %s was deleted or replaced while it was in use. Provision the warehouse anew to have an empty one, or to take the one that is there.",
			s.Status.Composite.Kind, s.Status.Composite.Name)
	case !found.Exists || found.Outdated:
		if found, err = s.provider.Apply(ctx, s.Warehouse, found); err != nil {
			return s.refused(err)
		}
	}
	s.seen = found
	s.record(found)
	return step.Done()
}

func (s *scope) record(found Observed) {
	st := &s.Status
	st.Composite = &found.Composite
	if st.ProvisioningStartedAt == nil {
		st.ProvisioningStartedAt = &metav1.Time{Time: s.now}
	}
	if found.MetadataStore != nil {
		st.MetadataStore = found.MetadataStore
	}
	if found.DataStore != nil {
		st.DataStore = found.DataStore
	}
	if found.Identity != nil {
		st.Identity = found.Identity
	}
	if found.Iceberg != nil {
		st.Iceberg = found.Iceberg
	}
}

// refused says whether waiting helps against a provider's error.
func (s *scope) refused(err error) step.Outcome {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return s.fail(refusal.Reason, "%s", refusal.Message).Again(s.budget.Look)
	}
	if out := s.unready("Unavailable", "%s", err); s.Status.FailedAt != nil {
		return out
	}
	return step.Failed("Unavailable", fmt.Errorf("asking provider %s: %w", s.Spec.Provider, err))
}

// release ends what the provider holds, and is done once it holds nothing.
func (w *Worker) release(ctx context.Context, s *scope) step.Outcome {
	if s.provider == nil {
		if s.Status.Composite == nil {
			return step.Done()
		}
		return step.Blocked(ProviderMissing, "This controller does not run provider %s, which holds %s %s.", s.Spec.Provider, s.Status.Composite.Kind, s.Status.Composite.Name)
	}
	found, err := s.provider.Observe(ctx, s.Warehouse)
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal) && refusal.Reason == ProviderMissing && s.Status.Composite == nil:
		return w.forget(s)
	case err != nil:
		return step.Failed(v1alpha1.ReasonDeleting, fmt.Errorf("looking at what is left: %w", err))
	case !found.Exists:
		return w.forget(s)
	}
	w.watch(s.Spec.Provider, s.provider)
	if !found.Terminating {
		if err := s.provider.Delete(ctx, s.Warehouse); err != nil {
			return step.Failed(v1alpha1.ReasonDeleting, fmt.Errorf("deleting %s %s: %w", found.Composite.Kind, found.Composite.Name, err))
		}
	}
	if found.Fault != "" {
		return step.Wait(s.budget.Look, v1alpha1.ReasonDeleting, "Deprovisioning...: %s", found.Fault)
	}
	return step.Wait(s.budget.Look, v1alpha1.ReasonDeleting, "Deprovisioning...")
}

func (w *Worker) forget(s *scope) step.Outcome {
	w.prober.forget(s.UID)
	s.Status.Composite, s.Status.MetadataStore, s.Status.DataStore, s.Status.Identity, s.Status.Iceberg = nil, nil, nil, nil, nil
	return step.Done()
}
