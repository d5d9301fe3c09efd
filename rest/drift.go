package rest

import (
	"context"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
)

// driftReport says where warehouses and composites differ.
type driftReport struct {
	Available bool    `json:"available" doc:"False where the composite's definition is not installed"`
	Issues    []issue `json:"issues,omitempty"`
}

type issue struct {
	Org     string `json:"org"`
	Kind    string `json:"kind" enum:"missing,not_ready,state_mismatch,orphan,check_error"`
	Message string `json:"message"`
}

// driftPage is how many composites are read at once.
const driftPage = 500

func (a *API) drift(ctx context.Context, _ *struct{}) (*struct{ Body driftReport }, error) {
	composites, err := a.composites(ctx)
	switch {
	case meta.IsNoMatchError(err), apierrors.IsNotFound(err):
		return &struct{ Body driftReport }{}, nil
	case err != nil:
		return &struct{ Body driftReport }{driftReport{Available: true, Issues: []issue{{Kind: "check_error", Message: explain(err).Error()}}}}, nil
	}
	warehouses := &v1alpha1.WarehouseList{}
	if err := a.Cache.List(ctx, warehouses); err != nil {
		return nil, err
	}
	return &struct{ Body driftReport }{driftReport{Available: true, Issues: decideDrift(warehouses.Items, composites)}}, nil
}

// composites tells of each composite, by name, whether it says Ready.
func (a *API) composites(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	ready := map[string]bool{}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(a.Composite.GroupVersion().WithKind(a.Composite.Kind + "List"))
	for {
		if err := a.Live.List(ctx, list, client.InNamespace(a.CompositeNamespace), client.Limit(driftPage), client.Continue(list.GetContinue())); err != nil {
			return nil, err
		}
		for i := range list.Items {
			ready[list.Items[i].GetName()] = saysReady(&list.Items[i])
		}
		if list.GetContinue() == "" {
			return ready, nil
		}
	}
}

func saysReady(o *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(c any) bool {
		fields, ok := c.(map[string]any)
		return ok && fields["type"] == "Ready" && fields["status"] == "True"
	})
}

// decideDrift compares; composites are by name, with whether each is ready.
func decideDrift(warehouses []v1alpha1.Warehouse, composites map[string]bool) []issue {
	var issues []issue
	known := map[string]bool{}
	for i := range warehouses {
		w := &warehouses[i]
		state, name := w.State(), naming.Composite(w.Name)
		if w.Status.Composite != nil {
			name = w.Status.Composite.Name
		}
		if w.Spec.Provider != "duckling" || state == v1alpha1.StateDeleted {
			continue
		}
		known[name] = true
		ready, there := composites[name]
		switch {
		case !there && (state == v1alpha1.StateReady || state == v1alpha1.StateProvisioning):
			issues = append(issues, issue{w.Name, "missing", "the warehouse is " + string(state) + " and its composite is not there"})
		case there && !ready && state == v1alpha1.StateReady:
			issues = append(issues, issue{w.Name, "not_ready", "the warehouse is ready and its composite is not"})
		case ready && state == v1alpha1.StateFailed:
			issues = append(issues, issue{w.Name, "state_mismatch", "the composite is ready and the warehouse is failed: " + w.StateMessage()})
		}
	}
	for name := range composites {
		if !known[name] {
			issues = append(issues, issue{name, "orphan", "there is no warehouse for this composite"})
		}
	}
	slices.SortFunc(issues, func(a, b issue) int { return strings.Compare(a.Org+a.Kind, b.Org+b.Kind) })
	return issues
}
