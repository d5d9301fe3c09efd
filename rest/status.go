package rest

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/sse"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Lifecycle is what everybody may know of a warehouse.
type Lifecycle struct {
	OrgID              string                  `json:"org_id"`
	State              v1alpha1.WarehouseState `json:"state" enum:"pending,provisioning,ready,failed,deleting,deleted"`
	StatusMessage      string                  `json:"status_message"`
	S3State            v1alpha1.WarehouseState `json:"s3_state"`
	MetadataStoreState v1alpha1.WarehouseState `json:"metadata_store_state"`
	IdentityState      v1alpha1.WarehouseState `json:"identity_state"`
	SecretsState       v1alpha1.WarehouseState `json:"secrets_state"`
	ReadyAt            *time.Time              `json:"ready_at,omitempty"`
	FailedAt           *time.Time              `json:"failed_at,omitempty"`
	Connection         *connection             `json:"connection,omitempty"`
}

// connection is how users reach a warehouse.
type connection struct {
	Host     string `json:"host"`
	Port     int    `json:"port"`
	Database string `json:"database"`
	Username string `json:"username"`
}

var errNoWarehouse = fail(http.StatusNotFound, "warehouse not found")

// warehouse reads one, or says that there is none.
func (a *API) warehouse(ctx context.Context, id string) (*v1alpha1.Warehouse, error) {
	w := &v1alpha1.Warehouse{}
	if err := a.cached(ctx, id, w); apierrors.IsNotFound(err) {
		return nil, errNoWarehouse
	} else if err != nil {
		return nil, err
	}
	return w, nil
}

func (a *API) status(ctx context.Context, id string) (*Lifecycle, error) {
	w, err := a.warehouse(ctx, id)
	if err != nil {
		return nil, err
	}
	s := statusOf(w)
	if s.State == v1alpha1.StateReady {
		org := &v1alpha1.Org{}
		if err := a.cached(ctx, id, org); err != nil {
			return nil, err
		}
		s.Connection = a.connection(org)
	}
	return &s, nil
}

func statusOf(w *v1alpha1.Warehouse) Lifecycle {
	s := Lifecycle{
		OrgID: w.Name, State: w.State(), StatusMessage: w.StateMessage(),
		S3State: w.ComponentState(v1alpha1.DataStoreReady), MetadataStoreState: w.ComponentState(v1alpha1.MetadataStoreReady),
		IdentityState: w.ComponentState(v1alpha1.IdentityReady), SecretsState: w.ComponentState(v1alpha1.SecretsReady),
	}
	if w.Status.Attempt == w.Spec.Attempt {
		s.ReadyAt, s.FailedAt = moment(w.Status.ReadyAt), moment(w.Status.FailedAt)
	}
	return s
}

func moment(t *metav1.Time) *time.Time {
	if t == nil {
		return nil
	}
	utc := t.UTC()
	return &utc
}

func (a *API) connection(org *v1alpha1.Org) *connection {
	return &connection{Host: a.Host, Port: a.Port, Database: org.Database(), Username: rootUser}
}

// heartbeat keeps an idle stream of events open through proxies.
const heartbeat = 15 * time.Second

// gone ends a stream: its warehouse is not there any more.
type gone struct {
	OrgID string `json:"org_id"`
}

func (a *API) progressRoutes(api huma.API) {
	route(api, http.MethodGet, "/orgs/{id}/warehouse/status", "How far a warehouse is", http.StatusOK,
		func(ctx context.Context, in *OrgPath) (*struct{ Body *Lifecycle }, error) {
			s, err := a.status(ctx, in.ID)
			return &struct{ Body *Lifecycle }{s}, err
		})
	route(api, http.MethodGet, "/operations/{operation}", "How far a provisioning or deprovisioning is", http.StatusOK, a.operation)
	sse.Register(api, huma.Operation{
		OperationID: "warehouse-events", Method: http.MethodGet, Path: prefix + "/orgs/{id}/warehouse/events", Summary: "A warehouse's status at each change",
	}, map[string]any{"status": Lifecycle{}, "gone": gone{}, "ping": ping{}}, a.events)
}

// ping says nothing but that the stream is open.
type ping struct{}

// events sends the status now and at each change, until the client leaves.
func (a *API) events(ctx context.Context, in *OrgPath, send sse.Sender) {
	news, stop := a.hub.listen(in.ID)
	defer stop()
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	last := ""
	for {
		s, err := a.status(ctx, in.ID)
		if err != nil {
			_ = send.Data(gone{in.ID}) // the stream ends either way
			return
		}
		if text := fmt.Sprintf("%+v %v %v %v", *s, s.ReadyAt, s.FailedAt, s.Connection); text != last {
			if send.Data(s) != nil {
				return
			}
			last = text
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-beat.C:
			if send.Data(ping{}) != nil {
				return
			}
		}
	}
}
