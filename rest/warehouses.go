package rest

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
)

// Wish is what of a warehouse can be asked for.
type Wish struct {
	MetadataStore *struct {
		Type   string `json:"type,omitempty" doc:"aurora, cnpg-shard, external or class; empty is aurora"`
		Aurora *struct {
			MinACU float64 `json:"min_acu,omitempty"`
			MaxACU float64 `json:"max_acu,omitempty"`
		} `json:"aurora,omitempty"`
		External *struct {
			Endpoint          string `json:"endpoint"`
			PasswordAWSSecret string `json:"password_aws_secret,omitempty"`
			User              string `json:"user"`
			Database          string `json:"database"`
		} `json:"external,omitempty"`
		Class     string  `json:"class,omitempty" doc:"The DatabaseClass of type class"`
		PgBouncer *toggle `json:"pgbouncer,omitempty"`
	} `json:"metadata_store,omitempty"`
	DataStore *struct {
		Type       string `json:"type,omitempty"`
		BucketName string `json:"bucket_name,omitempty"`
		Region     string `json:"region,omitempty"`
		PathPrefix string `json:"path_prefix,omitempty"`
	} `json:"data_store,omitempty"`
	Iceberg *struct {
		Enabled   bool   `json:"enabled"`
		Namespace string `json:"namespace,omitempty"`
	} `json:"iceberg,omitempty"`
}

type toggle struct {
	Enabled bool `json:"enabled"`
}

const needsACU = "metadata_store.aurora.max_acu must be greater than 0"

// apply puts what is asked for into spec. What it cannot judge the API server
// does, by the kind's own rules.
func (w Wish) apply(a *API, id string, spec *v1alpha1.WarehouseSpec) error {
	if w.MetadataStore == nil {
		return fail(http.StatusBadRequest, needsACU)
	}
	m := *w.MetadataStore
	store := v1alpha1.MetadataStoreSpec{Type: cmp.Or(m.Type, "aurora"), Class: m.Class, PgBouncer: m.PgBouncer != nil && m.PgBouncer.Enabled}
	if store.Type == "aurora" {
		if m.Aurora == nil || m.Aurora.MaxACU <= 0 {
			return fail(http.StatusBadRequest, needsACU)
		}
		if m.Aurora.MinACU < 0 || m.Aurora.MinACU > m.Aurora.MaxACU {
			return fail(http.StatusBadRequest, "metadata_store.aurora.min_acu must be between 0 and max_acu")
		}
		store.Aurora = &v1alpha1.AuroraSpec{MinACU: decimal(m.Aurora.MinACU), MaxACU: decimal(m.Aurora.MaxACU)}
	}
	if m.External != nil {
		store.External = &v1alpha1.ExternalMetadataStore{Endpoint: m.External.Endpoint, PasswordAWSSecret: m.External.PasswordAWSSecret, User: m.External.User, Database: m.External.Database}
	}
	spec.MetadataStore, spec.DataStore, spec.Iceberg = store, v1alpha1.DataStoreSpec{Type: "s3bucket"}, nil
	if d := w.DataStore; d != nil {
		spec.DataStore = v1alpha1.DataStoreSpec{Type: cmp.Or(d.Type, "s3bucket"), BucketName: d.BucketName, Region: d.Region, PathPrefix: d.PathPrefix}
	}
	if spec.DataStore.Type == "s3bucket" && spec.DataStore.BucketName == "" && a.BucketSuffix != "" {
		spec.DataStore.BucketName = naming.Bucket("posthog-duckling", id, a.BucketSuffix)
	}
	if w.Iceberg != nil {
		spec.Iceberg = &v1alpha1.IcebergSpec{Enabled: w.Iceberg.Enabled, Namespace: w.Iceberg.Namespace}
	}
	if spec.Provider == "" && store.Type == "class" {
		spec.Provider = "direct"
	}
	return nil
}

// decimal keeps three places, as the kind does.
func decimal(f float64) v1alpha1.Decimal {
	return v1alpha1.Decimal(strconv.FormatFloat(math.Round(f*1000)/1000, 'f', -1, 64))
}

// configuration is all that is known of a warehouse but its secrets.
type configuration struct {
	Lifecycle
	Provider      string            `json:"provider"`
	MetadataStore metadataStore     `json:"metadata_store"`
	AuroraMinACU  float64           `json:"aurora_min_acu"`
	AuroraMaxACU  float64           `json:"aurora_max_acu"`
	S3            s3                `json:"s3"`
	Identity      workerIdentity    `json:"worker_identity"`
	Credentials   *secretRef        `json:"metadata_store_credentials,omitempty"`
	Iceberg       *iceberg          `json:"iceberg,omitempty"`
	Conditions    []condition       `json:"conditions"`
	StartedAt     *time.Time        `json:"provisioning_started_at,omitempty"`
	CreatedAt     time.Time         `json:"created_at"`
	Composite     map[string]string `json:"composite,omitempty"`
}

type metadataStore struct {
	Kind         string `json:"kind"`
	Engine       string `json:"engine"`
	Endpoint     string `json:"endpoint"`
	Port         int32  `json:"port"`
	DatabaseName string `json:"database_name"`
	Username     string `json:"username"`
	Pooler       string `json:"pooler,omitempty"`
}

type s3 struct {
	Provider   string `json:"provider"`
	Region     string `json:"region"`
	Bucket     string `json:"bucket"`
	PathPrefix string `json:"path_prefix"`
	Endpoint   string `json:"endpoint"`
	UseSSL     bool   `json:"use_ssl"`
	URLStyle   string `json:"url_style"`
}

type workerIdentity struct {
	IAMRoleARN string `json:"iam_role_arn"`
}

type secretRef struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Key       string `json:"key"`
}

type iceberg struct {
	Enabled        bool   `json:"enabled"`
	Namespace      string `json:"namespace,omitempty"`
	Region         string `json:"region,omitempty"`
	TableBucketARN string `json:"table_bucket_arn,omitempty"`
}

type condition struct {
	Type    string    `json:"type"`
	Status  string    `json:"status"`
	Reason  string    `json:"reason"`
	Message string    `json:"message,omitempty"`
	Since   time.Time `json:"since"`
}

func configurationOf(w *v1alpha1.Warehouse) configuration {
	c := configuration{
		Lifecycle: statusOf(w), Provider: w.Spec.Provider, StartedAt: moment(w.Status.ProvisioningStartedAt), CreatedAt: w.CreationTimestamp.UTC(),
		MetadataStore: metadataStore{Kind: w.Spec.MetadataStore.Type, Engine: "postgres"}, S3: s3Of(w), Conditions: []condition{},
	}
	if aurora := w.Spec.MetadataStore.Aurora; aurora != nil {
		c.AuroraMinACU, _ = strconv.ParseFloat(string(aurora.MinACU), 64) // the API server checked their form
		c.AuroraMaxACU, _ = strconv.ParseFloat(string(aurora.MaxACU), 64)
	}
	if store := w.Status.MetadataStore; store != nil {
		c.MetadataStore = metadataStore{Kind: cmp.Or(store.Kind, w.Spec.MetadataStore.Type), Engine: "postgres", Endpoint: store.Endpoint, Port: store.Port,
			DatabaseName: store.Database, Username: store.Username, Pooler: store.Pooler}
		if ref := store.Credential; ref != nil {
			c.Credentials = &secretRef{ref.Namespace, ref.Name, ref.Key}
		}
	}
	if w.Status.Identity != nil {
		c.Identity.IAMRoleARN = w.Status.Identity.RoleARN
	}
	c.Iceberg = icebergOf(w)
	if composite := w.Status.Composite; composite != nil {
		c.Composite = map[string]string{"kind": composite.Kind, "namespace": composite.Namespace, "name": composite.Name}
	}
	for _, x := range w.Status.Conditions {
		c.Conditions = append(c.Conditions, condition{x.Type, string(x.Status), x.Reason, x.Message, x.LastTransitionTime.UTC()})
	}
	return c
}

func icebergOf(w *v1alpha1.Warehouse) *iceberg {
	if w.Spec.Iceberg == nil || !w.Spec.Iceberg.Enabled {
		return nil
	}
	i := &iceberg{Enabled: true, Namespace: w.Spec.Iceberg.Namespace}
	if found := w.Status.Iceberg; found != nil {
		i.Namespace, i.Region, i.TableBucketARN = cmp.Or(found.Namespace, i.Namespace), found.Region, found.TableBucketARN
	}
	return i
}

func (a *API) warehouseRoutes(api huma.API) {
	route(api, http.MethodPost, "/orgs/{id}/provision", "Make a warehouse, and the org if there is none", http.StatusAccepted, a.provision)
	route(api, http.MethodPost, "/orgs/{id}/deprovision", "Take a warehouse away", http.StatusAccepted, a.deprovision)
	route(api, http.MethodPost, "/orgs/{id}/reset-password", "Give the root user a new password", http.StatusOK, a.resetPassword)
	route(api, http.MethodGet, "/orgs/{id}/warehouse", "The full configuration of a warehouse", http.StatusOK, func(ctx context.Context, in *OrgPath) (*struct{ Body configuration }, error) {
		w, err := a.warehouse(ctx, in.ID)
		if err != nil {
			return nil, cmp.Or(ignoreNoWarehouse(err), fail(http.StatusNotFound, "managed warehouse not found"))
		}
		return &struct{ Body configuration }{configurationOf(w)}, nil
	})
	route(api, http.MethodPut, "/orgs/{id}/warehouse", "Set what a warehouse is asked to be", http.StatusOK, a.putWarehouse)
	route(api, http.MethodGet, "/ducklings/drift", "Where warehouses and composites differ", http.StatusOK, a.drift)
	route(api, http.MethodPost, "/orgs/{id}/activation", "What a worker needs to serve an org", http.StatusOK, a.activate, func(op *huma.Operation) {
		op.Security = []map[string][]string{{"token": {}}}
	})
}

func ignoreNoWarehouse(err error) error {
	if errors.Is(err, errNoWarehouse) {
		return nil
	}
	return err
}

func (a *API) putWarehouse(ctx context.Context, in *struct {
	OrgPath
	Mutation
	Body Wish
}) (*struct{ Body configuration }, error) {
	if err := a.Live.Get(ctx, client.ObjectKey{Name: in.ID}, &v1alpha1.Org{}); apierrors.IsNotFound(err) {
		return nil, errNoOrg
	} else if err != nil {
		return nil, err
	}
	w := &v1alpha1.Warehouse{ObjectMeta: metav1.ObjectMeta{Name: in.ID}}
	err := change(ctx, a, in.Mutation, w, func(w *v1alpha1.Warehouse) error { return in.Body.apply(a, in.ID, &w.Spec) })
	if apierrors.IsNotFound(err) {
		w = &v1alpha1.Warehouse{ObjectMeta: metav1.ObjectMeta{Name: in.ID}, Spec: v1alpha1.WarehouseSpec{Attempt: 1}}
		if err = in.Body.apply(a, in.ID, &w.Spec); err == nil {
			err = a.Live.Create(ctx, w, in.create()...)
		}
	}
	if err != nil {
		return nil, err
	}
	a.settled(ctx, w, in.Mutation)
	return &struct{ Body configuration }{configurationOf(w)}, nil
}
