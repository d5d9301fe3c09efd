package v1alpha1_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestStateOfAWarehouse(t *testing.T) {
	t.Parallel()
	now := metav1.NewTime(time.Now())
	for name, tc := range map[string]struct {
		change    func(*v1alpha1.Warehouse)
		state     v1alpha1.WarehouseState
		component v1alpha1.WarehouseState
		message   string
	}{
		"nothing happened yet": {func(w *v1alpha1.Warehouse) { w.Status = v1alpha1.WarehouseStatus{} }, "pending", "pending", ""},
		"taken up":             {func(*v1alpha1.Warehouse) {}, "pending", "pending", "reason of Ready"},
		"held by its provider": {func(w *v1alpha1.Warehouse) { w.Status.ProvisioningStartedAt = &now }, "provisioning", "provisioning", "reason of Ready"},
		"a part is up": {func(w *v1alpha1.Warehouse) {
			w.Status.ProvisioningStartedAt = &now
			condition(w, v1alpha1.DataStoreReady, "True", "")
		}, "provisioning", "ready", "reason of Ready"},
		"usable": {func(w *v1alpha1.Warehouse) {
			w.Status.ProvisioningStartedAt, w.Status.ReadyAt = &now, &now
			condition(w, v1alpha1.DataStoreReady, "True", "")
			condition(w, v1alpha1.Ready, "True", "")
		}, "ready", "ready", "Infrastructure ready"},
		"usable, but just now at fault": {func(w *v1alpha1.Warehouse) {
			w.Status.ProvisioningStartedAt, w.Status.ReadyAt = &now, &now
		}, "ready", "provisioning", "reason of Ready"},
		"failed":             {func(w *v1alpha1.Warehouse) { w.Status.ProvisioningStartedAt, w.Status.FailedAt = &now, &now }, "failed", "provisioning", "reason of Ready"},
		"failed before that": {func(w *v1alpha1.Warehouse) { w.Status.FailedAt = &now }, "failed", "pending", "reason of Ready"},
		"lost after it was usable": {func(w *v1alpha1.Warehouse) {
			w.Status.ProvisioningStartedAt, w.Status.ReadyAt, w.Status.FailedAt = &now, &now, &now
		}, "failed", "provisioning", "reason of Ready"},
		"provisioned anew": {func(w *v1alpha1.Warehouse) {
			w.Spec.Attempt, w.Status.ReadyAt = 2, &now
			condition(w, v1alpha1.DataStoreReady, "True", "")
		}, "pending", "pending", ""},
		"asked to go": {func(w *v1alpha1.Warehouse) {
			w.Spec.Deprovision, w.Generation, w.Status.ReadyAt, w.Status.ProvisioningStartedAt = true, 2, &now, &now
		}, "deleting", "provisioning", "Deprovisioning..."},
		"gone": {func(w *v1alpha1.Warehouse) {
			w.Spec.Deprovision = true
			condition(w, v1alpha1.Wanted, "False", v1alpha1.ReasonDeleted)
		}, "deleted", "deleted", "Resources deleted"},
		"gone, but of an earlier spec": {func(w *v1alpha1.Warehouse) {
			w.Spec.Deprovision, w.Generation = true, 2
			condition(w, v1alpha1.Wanted, "False", v1alpha1.ReasonDeleted)
		}, "deleting", "pending", "Deprovisioning..."},
		"the object itself is deleted": {func(w *v1alpha1.Warehouse) { w.DeletionTimestamp, w.Generation = &now, 2 }, "deleting", "pending", "Deprovisioning..."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &v1alpha1.Warehouse{Spec: v1alpha1.WarehouseSpec{Attempt: 1}, Status: v1alpha1.WarehouseStatus{Attempt: 1, BegunAt: &now}}
			condition(w, v1alpha1.Ready, "False", "Provisioning")
			tc.change(w)
			if got := w.State(); got != tc.state {
				t.Errorf("the state is %s, want %s", got, tc.state)
			}
			if got := w.ComponentState(v1alpha1.DataStoreReady); got != tc.component {
				t.Errorf("the component's state is %s, want %s", got, tc.component)
			}
			if got := w.StateMessage(); got != tc.message {
				t.Errorf("the message is %q, want %q", got, tc.message)
			}
		})
	}
}

// condition replaces one of w, as of generation 0.
func condition(w *v1alpha1.Warehouse, kind, status, reason string) {
	for i, c := range w.Status.Conditions {
		if c.Type == kind {
			w.Status.Conditions = append(w.Status.Conditions[:i], w.Status.Conditions[i+1:]...)
			break
		}
	}
	w.Status.Conditions = append(w.Status.Conditions, metav1.Condition{Type: kind, Status: metav1.ConditionStatus(status), Reason: reason, Message: "reason of " + kind})
}
