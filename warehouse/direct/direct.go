// Package direct makes warehouses without Crossplane: the metadata store is a
// DatabaseClaim, the data store a bucket of an S3 server, the identity a role
// of that server's STS that is narrowed to the bucket. It holds no object and
// deletes none: a bucket goes once it is empty.
package direct

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/warehouse"
)

// Provider makes claims and buckets.
type Provider struct {
	Client    client.Client
	Live      client.Reader
	Namespace string // of the claims
	Store     *Store // nil: there is no S3 server
	RoleARN   string // what workers' credentials are of, narrowed to a bucket
}

// Observe reads the claim, its Secret and the bucket.
func (p *Provider) Observe(ctx context.Context, w *v1alpha1.Warehouse) (warehouse.Observed, error) {
	if p.Store == nil {
		return warehouse.Observed{}, &warehouse.Refusal{Reason: warehouse.ProviderMissing, Message: "Provider direct needs an S3 server; start the controller with --s3-endpoint."}
	}
	claim := p.claim(w)
	err := p.Live.Get(ctx, client.ObjectKeyFromObject(claim), claim)
	if client.IgnoreNotFound(err) != nil {
		return warehouse.Observed{}, fmt.Errorf("reading claim %s: %w", claim.Name, err)
	}
	found := warehouse.Observed{
		Composite: v1alpha1.CompositeReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "DatabaseClaim", Namespace: claim.Namespace, Name: claim.Name, UID: string(claim.UID)},
		Exists:    err == nil, Outdated: err != nil, Terminating: claim.DeletionTimestamp != nil, Waiting: "Claim and bucket asked for, waiting for them",
	}
	if err == nil {
		if err := p.readClaim(ctx, claim, &found); err != nil {
			return found, err
		}
	}
	return found, p.readBucket(ctx, w, &found)
}

func (p *Provider) readClaim(ctx context.Context, claim *v1alpha1.DatabaseClaim, found *warehouse.Observed) error {
	ready := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.Ready)
	if ready == nil || ready.Status != metav1.ConditionTrue {
		if ready != nil {
			found.Fault = "DatabaseClaim " + claim.Name + ": " + ready.Reason + " " + ready.Message
		}
		return nil
	}
	secret := &corev1.Secret{}
	if err := p.Live.Get(ctx, client.ObjectKeyFromObject(claim), secret); apierrors.IsNotFound(err) {
		found.Fault = "Secret " + claim.Name + ": does not exist"
		return nil
	} else if err != nil {
		return fmt.Errorf("reading Secret %s: %w", claim.Name, err)
	}
	target, err := postgres.ParseDSN(string(secret.Data["uri_dsn.txt"]))
	if err != nil {
		return fmt.Errorf("reading Secret %s: its uri_dsn.txt does not parse", claim.Name)
	}
	found.Login, found.Ready = &target, true
	found.MetadataStore = &v1alpha1.MetadataStoreStatus{
		Kind: "class", Endpoint: target.Host, Port: int32(target.Port), Database: target.Database, Username: target.User, SSLMode: target.SSLMode,
		Credential: &v1alpha1.SecretKeyReference{Namespace: claim.Namespace, Name: claim.Name, Key: "password"},
	}
	return nil
}

// readBucket adds the bucket and the role to found. Without the bucket all of it
// is not ready, and what it lacks is asked for again.
func (p *Provider) readBucket(ctx context.Context, w *v1alpha1.Warehouse, found *warehouse.Observed) error {
	name := bucketOf(w)
	b, err := p.Store.look(ctx, name)
	switch {
	case err != nil:
		return err
	case b.exists && w.Spec.DataStore.Type != "external" && b.owner != w.Name:
		if b.owner != "" {
			return &warehouse.Refusal{Reason: "BucketNotTheirs", Message: fmt.Sprintf("Bucket %s belongs to somebody else; set another spec.dataStore.bucketName.", name)}
		}
		fallthrough // made, but not marked yet
	case !b.exists:
		found.Outdated, found.Ready = true, false
		if found.Fault == "" {
			found.Fault = "Bucket " + name + ": does not exist yet"
		}
		return nil
	}
	found.Exists = found.Exists || w.Spec.DataStore.Type != "external"
	found.DataStore = &v1alpha1.DataStoreStatus{BucketName: name, Region: p.Store.Region, PathPrefix: w.Spec.DataStore.PathPrefix, Endpoint: p.Store.Endpoint}
	found.Identity = &v1alpha1.IdentityStatus{RoleARN: p.RoleARN, Policy: policy(name, w.Spec.DataStore.PathPrefix)}
	return nil
}

// Apply makes the claim and the bucket.
func (p *Provider) Apply(ctx context.Context, w *v1alpha1.Warehouse, _ warehouse.Observed) (warehouse.Observed, error) {
	claim := p.claim(w)
	claim.Labels = naming.Labels(naming.WarehouseKind, w.Name)
	claim.Spec = v1alpha1.DatabaseClaimSpec{Class: w.Spec.MetadataStore.Class}
	if err := controllerutil.SetOwnerReference(w, claim, p.Client.Scheme()); err != nil {
		return warehouse.Observed{}, err
	}
	if err := client.IgnoreAlreadyExists(p.Client.Create(ctx, claim)); err != nil {
		if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
			return warehouse.Observed{}, &warehouse.Refusal{Reason: warehouse.Refused, Message: "Making its claim: " + err.Error()}
		}
		return warehouse.Observed{}, fmt.Errorf("making claim %s: %w", claim.Name, err)
	}
	if w.Spec.DataStore.Type != "external" {
		if err := p.Store.make(ctx, bucketOf(w), w.Name); err != nil {
			return warehouse.Observed{}, err
		}
	}
	return p.Observe(ctx, w)
}

// Delete takes the bucket away, which has to be empty, and then the claim, which
// has its own undo window.
func (p *Provider) Delete(ctx context.Context, w *v1alpha1.Warehouse) error {
	if w.Spec.DataStore.Type != "external" {
		b, err := p.Store.look(ctx, bucketOf(w))
		if err == nil && b.exists && b.owner == w.Name {
			err = p.Store.remove(ctx, bucketOf(w))
		}
		if err != nil {
			return err
		}
	}
	claim := p.claim(w)
	if err := p.Client.Delete(ctx, claim); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting claim %s: %w", claim.Name, err)
	}
	return nil
}

// Source tells of every change of a claim that was made for a warehouse.
func (p *Provider) Source(c cache.Cache, to handler.EventHandler) source.Source {
	made := labels.SelectorFromSet(labels.Set{naming.KindLabel: naming.WarehouseKind})
	return source.Kind[client.Object](c, &v1alpha1.DatabaseClaim{}, to, predicate.NewPredicateFuncs(func(o client.Object) bool {
		return made.Matches(labels.Set(o.GetLabels()))
	}))
}

func (p *Provider) claim(w *v1alpha1.Warehouse) *v1alpha1.DatabaseClaim {
	claim := &v1alpha1.DatabaseClaim{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: naming.Metadata(w.Name)}}
	if ref := w.Status.Composite; ref != nil {
		claim.Namespace, claim.Name = ref.Namespace, ref.Name
	}
	return claim
}

// bucketOf is the stored name, the one asked for, or, the first time, a derived one.
func bucketOf(w *v1alpha1.Warehouse) string {
	switch {
	case w.Status.DataStore != nil:
		return w.Status.DataStore.BucketName
	case w.Spec.DataStore.BucketName != "":
		return w.Spec.DataStore.BucketName
	}
	return naming.Bucket("berth", w.Name, "")
}

// policy lets a role do in a bucket, below a prefix, what a warehouse needs.
func policy(bucket, prefix string) string {
	list := map[string]any{"Effect": "Allow", "Action": []string{"s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"}, "Resource": "arn:aws:s3:::" + bucket}
	if prefix != "" {
		list["Condition"] = map[string]any{"StringLike": map[string]string{"s3:prefix": prefix + "*"}}
	}
	text, _ := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{list, map[string]any{ // of JSON's own types
		"Effect": "Allow", "Action": []string{"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"},
		"Resource": "arn:aws:s3:::" + bucket + "/" + prefix + "*",
	}}})
	return string(text)
}

// errNotEmpty keeps what may be somebody's only copy.
var errNotEmpty = errors.New("it still holds objects; empty it, and it goes")
