package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/step"
)

// desk is what a command for people works with.
type desk struct {
	*terminal
	api       client.WithWatch
	namespace string // where a name is looked up
	all       bool   // lists are of all namespaces
	format    string
	now       func() time.Time
}

func (g *Globals) desk() (*desk, error) {
	api, namespace, err := g.Client()
	if err != nil {
		return nil, err
	}
	return &desk{
		terminal: newTerminal(os.Stdin, os.Stdout, os.Stderr), api: api,
		namespace: namespace, all: g.AllNamespaces, format: g.Output, now: time.Now,
	}, nil
}

// within limits a list to the namespaces that were asked for.
func (d *desk) within() client.ListOption {
	if d.all {
		return client.InNamespace("")
	}
	return client.InNamespace(d.namespace)
}

// tenant is a DatabaseClaim or RoleClaim, as far as its login goes.
type tenant struct {
	object     step.Object
	kind       string
	label      string // value of naming.KindLabel on its Secret
	secret     string
	claim      client.ObjectKey // whose database it logs in to
	rotation   *v1alpha1.RotationSpec
	credential *v1alpha1.CredentialStatus
	copies     bool // its Secret is a copy of its claim's
}

func (t *tenant) String() string { return title(t.kind, t.object) }

func title(kind string, o client.Object) string {
	if o.GetNamespace() == "" {
		return kind + " " + o.GetName()
	}
	return kind + " " + o.GetNamespace() + "/" + o.GetName()
}

// tenant reads the claim of that name, or the role claim when role is set.
func (d *desk) tenant(ctx context.Context, name string, role bool) (*tenant, error) {
	key := client.ObjectKey{Namespace: d.namespace, Name: name}
	if role {
		o := &v1alpha1.RoleClaim{}
		if err := d.api.Get(ctx, key, o); err != nil {
			return nil, absent(err, "RoleClaim", key)
		}
		return tenantOfRole(o), nil
	}
	o := &v1alpha1.DatabaseClaim{}
	if err := d.api.Get(ctx, key, o); err != nil {
		return nil, absent(err, "DatabaseClaim", key)
	}
	return &tenant{
		object: o, kind: "DatabaseClaim", label: naming.ClaimKind, secret: cmp.Or(o.Spec.SecretName, o.Name), claim: key,
		rotation: &o.Spec.Rotation, credential: o.Status.Credential,
	}, nil
}

func tenantOfRole(o *v1alpha1.RoleClaim) *tenant {
	return &tenant{
		object: o, kind: "RoleClaim", label: naming.RoleKind, secret: cmp.Or(o.Spec.SecretName, o.Name), claim: claimOf(o),
		rotation: &o.Spec.Rotation, credential: o.Status.Credential, copies: len(o.Spec.SchemaRoleMap) == 0,
	}
}

func claimOf(o *v1alpha1.RoleClaim) client.ObjectKey {
	ref := o.Spec.SourceDatabaseClaim
	return client.ObjectKey{Namespace: cmp.Or(ref.Namespace, o.Namespace), Name: ref.Name}
}

// absent says where to look for an object that is not there.
func absent(err error, kind string, key client.ObjectKey) error {
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("reading %s %s: %w", kind, key, err)
	}
	hint := "berth get -A lists all"
	if kind == "DatabaseClaim" {
		hint = "berth get -A lists all, and --role names a RoleClaim"
	}
	return fmt.Errorf("there is no %s %s in namespace %s; %s", kind, key.Name, key.Namespace, hint)
}
