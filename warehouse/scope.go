package warehouse

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/step"
)

// scope is what one pass over one warehouse reads and finds.
type scope struct {
	*v1alpha1.Warehouse
	org      *v1alpha1.Org // nil when there is none
	provider Provider      // nil when this controller has none of that name
	seen     Observed      // set by request
	budget   Budget
	now      time.Time
}

func (w *Worker) open(ctx context.Context, warehouse *v1alpha1.Warehouse) (*scope, error) {
	s := &scope{Warehouse: warehouse, provider: w.Providers[warehouse.Spec.Provider], budget: w.Budget.orDefault(), now: w.Clock.Now()}
	org := &v1alpha1.Org{}
	switch err := w.Client.Get(ctx, client.ObjectKey{Name: warehouse.Name}, org); {
	case err == nil:
		s.org = org
	case client.IgnoreNotFound(err) != nil:
		return nil, fmt.Errorf("reading org %s: %w", warehouse.Name, err)
	}
	return s, nil
}

// began is when the attempt's budget began to run.
func (s *scope) began() time.Time {
	if s.Status.ProvisioningStartedAt != nil {
		return s.Status.ProvisioningStartedAt.Time
	}
	return s.Status.BegunAt.Time
}

// unready waits, and fails the attempt once its budget is over. A warehouse that
// was usable is not failed by a fault that may pass.
func (s *scope) unready(reason, format string, args ...any) step.Outcome {
	text := fmt.Sprintf(format, args...)
	left := s.budget.Provisioning - s.now.Sub(s.began())
	switch {
	case s.Status.ReadyAt != nil:
		return step.Wait(s.budget.Look, reason, "%s", text)
	case left <= 0:
		return s.fail("TimedOut", "Provisioning timed out after %.0f minutes: %s", s.budget.Provisioning.Minutes(), text).Again(s.budget.Look)
	}
	return step.Wait(min(left, s.budget.Look), reason, "%s", text)
}

// fail marks the attempt as failed, unless it was usable before.
func (s *scope) fail(reason, format string, args ...any) step.Outcome {
	if s.Status.ReadyAt == nil {
		s.failed()
	}
	return step.Blocked(reason, format, args...)
}

func (s *scope) failed() {
	if s.Status.FailedAt == nil {
		s.Status.FailedAt = &metav1.Time{Time: s.now}
	}
}
