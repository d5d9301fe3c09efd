package warehouse

import (
	"context"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/step"
)

// components are a warehouse's parts, as its conditions and people name them.
var components = []struct{ condition, name string }{
	{v1alpha1.MetadataStoreReady, "metadata store"}, {v1alpha1.DataStoreReady, "data store"},
	{v1alpha1.IdentityReady, "identity"}, {v1alpha1.SecretsReady, "secrets"},
}

func metadataStore(_ context.Context, s *scope) step.Outcome {
	return s.component(s.seen.MetadataStore != nil)
}

func dataStore(_ context.Context, s *scope) step.Outcome { return s.component(s.seen.DataStore != nil) }

func identity(_ context.Context, s *scope) step.Outcome { return s.component(s.seen.Identity != nil) }

func secrets(_ context.Context, s *scope) step.Outcome {
	if s.seen.SecretReason != "" {
		return step.Wait(0, s.seen.SecretReason, "%s", s.seen.SecretFault)
	}
	return s.component(s.seen.Login != nil)
}

// component holds only while the provider stands by all of it: a field that is
// there tells nothing of what became of the thing since.
func (s *scope) component(there bool) step.Outcome {
	switch {
	case !there:
		return step.Wait(0, "Provisioning", "It is not there yet.")
	case !s.seen.Ready:
		return step.Wait(0, "Provisioning", "It is there, but the whole is not ready.")
	}
	return step.Done()
}

// judge is done when all components hold. Until then it says what is at fault,
// and when to give the attempt up.
func (w *Worker) judge(_ context.Context, s *scope) step.Outcome {
	var missing []string
	for _, c := range components {
		if !meta.IsStatusConditionTrue(s.Status.Conditions, c.condition) {
			missing = append(missing, c.name)
		}
	}
	if len(missing) == 0 {
		return step.Done()
	}
	if s.seen.Unsynced == "" {
		return s.unready("Provisioning", "%s", s.text(missing))
	}
	since := s.began()
	if s.seen.UnsyncedSince.After(since) {
		since = s.seen.UnsyncedSince
	}
	left := s.budget.Sync - s.now.Sub(since)
	out := s.unready("SyncFailed", "Crossplane error: %s", s.seen.Unsynced)
	if left > 0 || s.Status.ReadyAt != nil || s.Status.FailedAt != nil {
		return out
	}
	return s.fail("SyncFailed", "Crossplane error: %s", s.seen.Unsynced).Again(s.budget.Look)
}

// text names what is at fault, or what is missing when nobody says.
func (s *scope) text(missing []string) string {
	if s.seen.Fault != "" {
		return s.seen.Fault
	}
	if s.seen.SecretFault != "" {
		return s.seen.SecretFault
	}
	return s.seen.Waiting + " (" + strings.Join(missing, ", ") + ")"
}
