// Package duckling makes warehouses by a Crossplane composite, the Duckling: it
// writes its spec, reads its status, and says which composed resource is at
// fault. It composes nothing itself and keeps no password.
package duckling

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/warehouse"
)

// Kind is the composite that berth writes unless it is told another.
var Kind = schema.GroupVersionKind{Group: "k8s.posthog.com", Version: "v1alpha1", Kind: "Duckling"}

// Namespace is where composites, and the Secrets they name, are by default.
const Namespace = "ducklings"

// Provider writes composites.
type Provider struct {
	Client    client.Client // writes; reads of it may be cached
	Live      client.Reader // the API server itself
	Kind      schema.GroupVersionKind
	Namespace string
	// Extras are put below every composite's spec; what a warehouse asks for wins.
	Extras map[string]any
	// Secrets is the namespace of berth's own Secrets about warehouses.
	Secrets string
}

var strict = client.FieldValidation(metav1.FieldValidationStrict)

// Observe reads the composite, its password, and while it is not ready the
// resources that it composed.
func (p *Provider) Observe(ctx context.Context, w *v1alpha1.Warehouse) (warehouse.Observed, error) {
	composite := p.named(w)
	if err := p.Live.Get(ctx, client.ObjectKeyFromObject(composite), composite); err != nil {
		none := warehouse.Observed{Composite: p.reference(composite)}
		if apierrors.IsNotFound(err) && !noSuchKind(err) {
			return none, nil
		}
		return none, p.explain("reading", composite, err)
	}
	return p.observe(ctx, w, composite)
}

func (p *Provider) observe(ctx context.Context, w *v1alpha1.Warehouse, composite *unstructured.Unstructured) (warehouse.Observed, error) {
	found := p.read(composite)
	found.Outdated = !covers(spec(composite), p.spec(w))
	if found.Terminating || !found.Ready {
		found.Fault = p.fault(ctx, composite)
	}
	return found, p.readLogin(ctx, w, composite, &found)
}

// Apply makes the composite, or corrects its spec by the difference, and reads
// back what came of it: the API server drops fields that it does not know.
func (p *Provider) Apply(ctx context.Context, w *v1alpha1.Warehouse, have warehouse.Observed) (warehouse.Observed, error) {
	composite, want := p.named(w), p.spec(w)
	made := !have.Exists
	if made {
		composite.SetLabels(naming.Labels(naming.WarehouseKind, w.Name))
		composite.Object["spec"] = want
		switch err := p.Client.Create(ctx, composite, strict); {
		case apierrors.IsAlreadyExists(err):
			return p.Observe(ctx, w) // somebody else made it: as good as ours
		case err != nil:
			return have, p.explain("making", composite, err)
		}
	} else if err := p.Client.Patch(ctx, composite, merge(want), strict); err != nil {
		return have, p.explain("changing", composite, err)
	}
	if !covers(spec(composite), want) {
		return have, &warehouse.Refusal{Reason: warehouse.FieldsDropped, Message: fmt.Sprintf(
			"%s %s did not keep all that its spec was given; its definition is older than this provider expects.", p.Kind.Kind, composite.GetName())}
	}
	found, err := p.observe(ctx, w, composite)
	if made {
		found.Waiting = p.Kind.Kind + " CR created, waiting for resources"
	}
	return found, err
}

// Delete asks for the composite's end, and takes away the Secret that was
// written for it.
func (p *Provider) Delete(ctx context.Context, w *v1alpha1.Warehouse) error {
	composite := p.named(w)
	if err := p.Client.Delete(ctx, composite); client.IgnoreNotFound(err) != nil {
		return p.explain("deleting", composite, err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: p.Secrets, Name: naming.Metadata(w.Name)}}
	return client.IgnoreNotFound(p.Client.Delete(ctx, secret))
}

// Source tells of every change of a composite. It watches metadata alone: each
// change of spec or status moves the resource version.
func (p *Provider) Source(c cache.Cache, to handler.EventHandler) source.Source {
	composite := &metav1.PartialObjectMetadata{}
	composite.SetGroupVersionKind(p.Kind)
	return source.Kind[client.Object](c, composite, to)
}

// named is the composite of w, by the name that was stored when it was made.
func (p *Provider) named(w *v1alpha1.Warehouse) *unstructured.Unstructured {
	composite := &unstructured.Unstructured{}
	composite.SetGroupVersionKind(p.Kind)
	composite.SetNamespace(p.Namespace)
	composite.SetName(naming.Composite(w.Name))
	if ref := w.Status.Composite; ref != nil {
		composite.SetNamespace(ref.Namespace)
		composite.SetName(ref.Name)
	}
	return composite
}

func (p *Provider) reference(o *unstructured.Unstructured) v1alpha1.CompositeReference {
	version, kind := p.Kind.ToAPIVersionAndKind()
	return v1alpha1.CompositeReference{APIVersion: version, Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName(), UID: string(o.GetUID())}
}

// explain sorts errors of the API server into those that waiting mends and
// those that a person has to.
func (p *Provider) explain(doing string, o *unstructured.Unstructured, err error) error {
	what := fmt.Sprintf("%s %s %s", doing, p.Kind.Kind, o.GetName())
	if doing == "making" {
		what = "Failed to create " + p.Kind.Kind + " CR"
	}
	switch {
	case noSuchKind(err):
		return &warehouse.Refusal{Reason: warehouse.ProviderMissing, Message: fmt.Sprintf(
			"This cluster does not know %s.%s; install its CompositeResourceDefinition.", p.Kind.Kind, p.Kind.Group)}
	case isAbout(err, "namespaces"), apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return &warehouse.Refusal{Reason: warehouse.Refused, Message: what + ": " + scrub(err.Error())}
	}
	return errors.New(what + ": " + scrub(err.Error()))
}

// isAbout reports whether something of that kind was not found.
func isAbout(err error, kind string) bool {
	var status apierrors.APIStatus
	return apierrors.IsNotFound(err) && errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Kind == kind
}

// noSuchKind tells a kind that is not served from an object that is not there.
func noSuchKind(err error) bool {
	var status apierrors.APIStatus
	if meta.IsNoMatchError(err) {
		return true
	}
	return apierrors.IsNotFound(err) && errors.As(err, &status) && (status.Status().Details == nil || status.Status().Details.Name == "")
}
