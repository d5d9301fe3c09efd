package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WarehouseState sums a warehouse, or one of its components, up in a word.
type WarehouseState string

// The states of a warehouse.
const (
	StatePending      WarehouseState = "pending"
	StateProvisioning WarehouseState = "provisioning"
	StateReady        WarehouseState = "ready"
	StateFailed       WarehouseState = "failed"
	StateDeleting     WarehouseState = "deleting"
	StateDeleted      WarehouseState = "deleted"
)

// Reasons of Wanted while a warehouse is deprovisioned, and once nothing of it is left.
const (
	ReasonDeleting = "Deleting"
	ReasonDeleted  = "Deleted"
)

// State is derived from the spec and the status alone; the same object has the
// same state whoever asks, and at any time. Failed and ready last until an
// attempt ends or, for failed, until the warehouse becomes usable.
func (w *Warehouse) State() WarehouseState {
	s := &w.Status
	switch {
	case w.Spec.Deprovision && w.released():
		return StateDeleted
	case w.Spec.Deprovision || w.DeletionTimestamp != nil:
		return StateDeleting
	case s.Attempt != w.Spec.Attempt:
		return StatePending
	case s.FailedAt != nil:
		return StateFailed
	case s.ReadyAt != nil:
		return StateReady
	case s.ProvisioningStartedAt != nil:
		return StateProvisioning
	}
	return StatePending
}

// released reports whether the provider has nothing left of this generation.
func (w *Warehouse) released() bool {
	c := meta.FindStatusCondition(w.Status.Conditions, Wanted)
	return c != nil && c.Reason == ReasonDeleted && c.ObservedGeneration == w.Generation
}

// ComponentState is the state of what condition speaks of. It is ready only
// while the condition holds, and goes back to provisioning when it does not.
func (w *Warehouse) ComponentState(condition string) WarehouseState {
	switch state := w.State(); {
	case state == StateDeleted || state == StatePending:
		return state
	case meta.IsStatusConditionTrue(w.Status.Conditions, condition):
		return StateReady
	case w.Status.ProvisioningStartedAt == nil:
		return StatePending
	}
	return StateProvisioning
}

// StateMessage says in a sentence why the state is what it is.
func (w *Warehouse) StateMessage() string {
	state := w.State()
	if state == StateDeleted {
		return "Resources deleted"
	}
	ready := meta.FindStatusCondition(w.Status.Conditions, Ready)
	if ready == nil || w.Status.Attempt != w.Spec.Attempt {
		return ""
	}
	if ready.Status == metav1.ConditionTrue && state == StateReady {
		return "Infrastructure ready"
	}
	if state == StateDeleting && ready.ObservedGeneration != w.Generation {
		return "Deprovisioning..."
	}
	return ready.Message
}
