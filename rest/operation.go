package rest

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// operation is one provisioning or deprovisioning, read off its warehouse: it
// is stored nowhere, and cannot differ from what happened.
type operation struct {
	ID        string `json:"id"`
	Org       string `json:"org"`
	Kind      string `json:"kind" enum:"provision,deprovision"`
	Done      bool   `json:"done"`
	Succeeded bool   `json:"succeeded"`
	Step      string `json:"step" doc:"The condition that it waits for"`
	Percent   int    `json:"percent"`
	Blocker   string `json:"blocker,omitempty" doc:"Why it is not further"`
}

const (
	verbProvision   = "provision"
	verbDeprovision = "deprovision"
	verbReset       = "reset-password"
)

func operationID(w *v1alpha1.Warehouse, verb string) string {
	return fmt.Sprintf("%s.%s.%d", w.Name, verb, w.Spec.Attempt)
}

// provisioning are the steps of an attempt, in order.
var provisioning = []string{
	v1alpha1.Admitted, v1alpha1.Requested, v1alpha1.MetadataStoreReady, v1alpha1.DataStoreReady, v1alpha1.IdentityReady,
	v1alpha1.SecretsReady, v1alpha1.Provisioned, v1alpha1.Usable,
}

func (a *API) operation(ctx context.Context, in *struct {
	Operation string `path:"operation" maxLength:"120"`
}) (*struct{ Body operation }, error) {
	parts := strings.Split(in.Operation, ".")
	unknown := fail(http.StatusNotFound, "operation not found")
	if len(parts) != 3 || parts[1] != verbProvision && parts[1] != verbDeprovision {
		return nil, unknown
	}
	attempt, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return nil, unknown
	}
	w, err := a.warehouse(ctx, parts[0])
	if err != nil || attempt < 1 || attempt > w.Spec.Attempt {
		return nil, unknown
	}
	return &struct{ Body operation }{operationOf(w, parts[1], attempt)}, nil
}

func operationOf(w *v1alpha1.Warehouse, verb string, attempt int64) operation {
	o := operation{ID: fmt.Sprintf("%s.%s.%d", w.Name, verb, attempt), Org: w.Name, Kind: verb}
	state := w.State()
	switch {
	case attempt < w.Spec.Attempt, verb == verbProvision && w.Spec.Deprovision:
		o.Done, o.Step, o.Percent = true, "Superseded", 100
		return o
	case verb == verbDeprovision:
		o.Step, o.Done, o.Succeeded = v1alpha1.Wanted, state == v1alpha1.StateDeleted, state == v1alpha1.StateDeleted
		if o.Done {
			o.Percent = 100
		}
	default:
		for _, condition := range provisioning {
			if state == v1alpha1.StatePending || !meta.IsStatusConditionTrue(w.Status.Conditions, condition) {
				o.Step = condition
				break
			}
			o.Percent += 100 / len(provisioning)
		}
		o.Done, o.Succeeded = state == v1alpha1.StateReady || state == v1alpha1.StateFailed, state == v1alpha1.StateReady
		if o.Succeeded {
			o.Percent = 100
		}
	}
	if !o.Succeeded {
		o.Blocker = w.StateMessage()
	}
	return o
}
