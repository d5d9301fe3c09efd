package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/warehouse"
	"github.com/berth-dev/berth/warehouse/direct"
	"github.com/berth-dev/berth/warehouse/duckling"
)

// CompositeFlags say where organisations' warehouses are; the controllers and
// the API have to agree on them.
type CompositeFlags struct {
	OrgNamespace      string `help:"Namespace of the organisations' Secrets." default:"berth-warehouses" placeholder:"NAME"`
	DucklingKind      string `help:"Composite that makes warehouses, as kind.version.group." default:"Duckling.v1alpha1.k8s.posthog.com" placeholder:"KIND"`
	DucklingNamespace string `help:"Namespace of the composites and of the Secrets they name." default:"ducklings" placeholder:"NAME"`
}

func (f CompositeFlags) kind() (schema.GroupVersionKind, error) {
	parts := strings.SplitN(f.DucklingKind, ".", 3)
	if len(parts) != 3 {
		return schema.GroupVersionKind{}, fmt.Errorf("reading --duckling-kind: %s is not of the form kind.version.group", f.DucklingKind)
	}
	return schema.GroupVersionKind{Kind: parts[0], Version: parts[1], Group: parts[2]}, nil
}

// DirectFlags say which S3 server provider direct makes buckets on. Its
// administrator's keys are found as every AWS program finds them.
type DirectFlags struct {
	S3Endpoint string `name:"s3-endpoint" help:"S3 server for warehouses without Crossplane, with its STS." placeholder:"URL"`
	S3Region   string `name:"s3-region" help:"Region of that server." default:"us-east-1" placeholder:"REGION"`
	S3RoleARN  string `name:"s3-role-arn" help:"Role that workers' credentials are of, narrowed to their bucket." default:"arn:aws:iam::000000000000:role/berth-warehouses" placeholder:"ARN"`
}

// store is nil without an S3 server.
func (f DirectFlags) store(ctx context.Context) (*direct.Store, error) {
	if f.S3Endpoint == "" {
		return nil, nil
	}
	loaded, err := config.LoadDefaultConfig(ctx, config.WithRegion(f.S3Region))
	if err != nil {
		return nil, fmt.Errorf("finding the S3 server's keys: %w", err)
	}
	return &direct.Store{Endpoint: f.S3Endpoint, Region: f.S3Region, Keys: loaded.Credentials}, nil
}

// WarehouseFlags are what the controllers need to make warehouses.
type WarehouseFlags struct {
	CompositeFlags
	DirectFlags
	DucklingExtras string `help:"JSON object put below every composite's spec." default:"{}" placeholder:"JSON"`
}

// watched are the namespaces to watch: those of the warehouses too, if not all are.
func (f WarehouseFlags) watched(tenants []string) []string {
	if len(tenants) == 0 {
		return nil
	}
	return append([]string{f.OrgNamespace, f.DucklingNamespace}, tenants...)
}

// add wires orgs and warehouses to mgr.
func (f WarehouseFlags) add(ctx context.Context, mgr ctrl.Manager) error {
	kind, err := f.kind()
	if err != nil {
		return err
	}
	extras := map[string]any{}
	if err := json.Unmarshal([]byte(f.DucklingExtras), &extras); err != nil {
		return fmt.Errorf("reading --duckling-extras: %w", err)
	}
	store, err := f.store(ctx)
	if err != nil {
		return err
	}
	w := &warehouse.Worker{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Clock: clock.RealClock{}, Namespace: f.OrgNamespace, Log: slog.Default(),
		Providers: map[string]warehouse.Provider{
			"duckling": &duckling.Provider{
				Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Kind: kind, Namespace: f.DucklingNamespace, Extras: extras, Secrets: f.OrgNamespace,
			},
			"direct": &direct.Provider{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Namespace: f.OrgNamespace, Store: store, RoleARN: f.S3RoleARN},
		},
	}
	if err := w.SetUp(ctx, mgr, workers); err != nil {
		return fmt.Errorf("setting up warehouses: %w", err)
	}
	return nil
}

// devComposites are the defaults, for a process that has no flags for them.
var devComposites = CompositeFlags{OrgNamespace: naming.WarehouseNamespace, DucklingKind: "Duckling.v1alpha1.k8s.posthog.com", DucklingNamespace: duckling.Namespace}
