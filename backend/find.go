package backend

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/step"
)

// Source stands in a claim's status for the server that the claim itself brought.
const Source = "source"

// Finder finds the server that a claim's database is on.
type Finder struct {
	Backends map[string]Backend
	Live     client.Reader // not cached
}

// Find returns how to administer the claim's server. A server of the class is
// started when it is not usable; one that never was is made only if create is set.
func (f Finder) Find(ctx context.Context, claim *v1alpha1.DatabaseClaim, class *v1alpha1.DatabaseClass, create bool) (postgres.Target, step.Outcome) {
	if ptr.Deref(claim.Spec.UseExistingSource, false) {
		return f.source(ctx, claim)
	}
	b := f.Backends[class.Spec.Backend]
	if b == nil {
		return postgres.Target{}, step.Blocked("BackendMissing", "This controller does not run backend %s.", class.Spec.Backend)
	}
	want := Server{ID: ServerID(claim, class), Class: class, Wishes: WishesOf(claim, class)}
	found, err := b.Observe(ctx, want)
	if err != nil {
		return postgres.Target{}, Outcome(err)
	}
	if found.Usable {
		return found.Admin, step.Done()
	}
	if found.Exists || create {
		if err := b.Apply(ctx, want); err != nil {
			return postgres.Target{}, Outcome(err)
		}
	}
	return postgres.Target{}, found.Finding()
}

// ServerID is the server a claim is on, or would be given.
func ServerID(claim *v1alpha1.DatabaseClaim, class *v1alpha1.DatabaseClass) string {
	switch {
	case claim.Status.Server != nil:
		return claim.Status.Server.ID
	case class.Spec.Dedicated:
		return naming.DedicatedServer(claim.Namespace, claim.Name)
	default:
		return naming.SharedServer(class.Name)
	}
}

// WishesOf are what claim, or else its class, asks of the server.
func WishesOf(claim *v1alpha1.DatabaseClaim, class *v1alpha1.DatabaseClass) Wishes {
	defaults := DefaultsOf(class)
	return Wishes{
		Version: claim.Spec.DBVersion, Shape: cmp.Or(claim.Spec.Shape, defaults.Shape),
		MinStorageGB: cmp.Or(claim.Spec.MinStorageGB, defaults.MinStorageGB), MaxStorageGB: claim.Spec.MaxStorageGB,
		BackupPolicy: claim.Spec.BackupPolicy, RestoreFrom: claim.Spec.RestoreFrom,
		MaintenanceWindow: claim.Spec.PreferredMaintenanceWindow, Tags: claim.Spec.Tags,
	}
}

// DefaultsOf are what class asks of every server that its backend makes.
func DefaultsOf(class *v1alpha1.DatabaseClass) Wishes {
	return Wishes{Shape: class.Spec.Shape, MinStorageGB: class.Spec.MinStorageGB}
}

// source reads the server that the claim brought in spec.sourceDataFrom.
func (f Finder) source(ctx context.Context, claim *v1alpha1.DatabaseClaim) (postgres.Target, step.Outcome) {
	source := claim.Spec.SourceDataFrom.Database
	secret := &corev1.Secret{}
	err := f.Live.Get(ctx, client.ObjectKey{Namespace: claim.Namespace, Name: source.SecretRef.Name}, secret)
	if client.IgnoreNotFound(err) != nil {
		return postgres.Target{}, step.Failed("SourceSecretUnreadable", fmt.Errorf("reading Secret %s: %w", source.SecretRef.Name, err))
	}
	if err != nil {
		return postgres.Target{}, step.Wait(30*time.Second, "SourceSecretMissing", "There is no Secret %s in namespace %s; create it with key %s.", source.SecretRef.Name, claim.Namespace, credential.KeyURI)
	}
	target, err := ResolveSource(source.DSN, secret.Data)
	if err != nil {
		return postgres.Target{}, step.Wait(time.Minute, "SourceMalformed", "Secret %s and spec.sourceDataFrom.database.dsn do not make a connection: %v.", source.SecretRef.Name, err)
	}
	return target, step.Done()
}

// ResolveSource prefers the Secret's uri_dsn.txt; else its password completes
// the DSN. Its errors show no value.
func ResolveSource(dsn string, data map[string][]byte) (postgres.Target, error) {
	uri, password := strings.TrimSpace(string(data[credential.KeyURI])), string(data[credential.KeyPassword])
	if uri == "" && dsn == "" {
		return postgres.Target{}, fmt.Errorf("the Secret has no key %s, and the DSN is empty", credential.KeyURI)
	}
	if uri == "" && password == "" {
		return postgres.Target{}, fmt.Errorf("the Secret has neither key %s nor key %s", credential.KeyURI, credential.KeyPassword)
	}
	target, err := postgres.ParseDSN(cmp.Or(uri, dsn))
	if err != nil {
		return postgres.Target{}, err
	}
	if uri == "" {
		target.Password = password
	}
	target.RootCA = data["ca.crt"]
	target.Database = cmp.Or(target.Database, target.User)
	return target, nil
}
