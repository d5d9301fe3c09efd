package rest

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestDrift(t *testing.T) {
	t.Parallel()
	now := metav1.Now()
	of := func(change func(*v1alpha1.Warehouse)) v1alpha1.Warehouse {
		w := v1alpha1.Warehouse{ObjectMeta: metav1.ObjectMeta{Name: "acme"}, Spec: v1alpha1.WarehouseSpec{Attempt: 1, Provider: "duckling"}}
		w.Status.Attempt, w.Status.ProvisioningStartedAt = 1, &now
		change(&w)
		return w
	}
	ready := of(func(w *v1alpha1.Warehouse) { w.Status.ReadyAt = &now })
	for name, tc := range map[string]struct {
		warehouse  v1alpha1.Warehouse
		composites map[string]bool
		want       []string
	}{
		"ready on both sides":           {ready, map[string]bool{"acme": true}, nil},
		"a composite that is gone":      {ready, nil, []string{"acme missing"}},
		"a composite that is not ready": {ready, map[string]bool{"acme": false}, []string{"acme not_ready"}},
		"a composite that came up":      {of(func(w *v1alpha1.Warehouse) { w.Status.FailedAt = &now }), map[string]bool{"acme": true}, []string{"acme state_mismatch"}},
		"one that is on its way":        {of(func(*v1alpha1.Warehouse) {}), map[string]bool{"acme": false}, nil},
		"one that is not asked for yet": {of(func(w *v1alpha1.Warehouse) { w.Status = v1alpha1.WarehouseStatus{} }), nil, nil},
		"a composite of nobody":         {ready, map[string]bool{"acme": true, "stray": true}, []string{"stray orphan"}},
		"a composite by its stored name": {of(func(w *v1alpha1.Warehouse) {
			w.Status.ReadyAt = &now
			w.Status.Composite = &v1alpha1.CompositeReference{Name: "old"}
		}), map[string]bool{"old": true}, nil},
		"a composite that outlived its org": {of(func(w *v1alpha1.Warehouse) {
			w.Spec.Deprovision = true
			w.Status.Conditions = []metav1.Condition{{Type: v1alpha1.Wanted, Status: "False", Reason: v1alpha1.ReasonDeleted}}
		}), map[string]bool{"acme": true}, []string{"acme orphan"}},
		"one of another provider": {of(func(w *v1alpha1.Warehouse) { w.Spec.Provider = "direct" }), nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, i := range decideDrift([]v1alpha1.Warehouse{tc.warehouse}, tc.composites) {
				got = append(got, fmt.Sprint(i.Org, " ", i.Kind))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
