// Package existing is the backend for a server that somebody else runs: a
// Secret says how its administrator logs in.
//
// It makes, changes and deletes nothing.
package existing

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
)

// Reasons why a server is not usable.
const (
	SecretMissing    = "SecretMissing"
	SecretMalformed  = "SecretMalformed"
	SecretUnreadable = "SecretUnreadable"
	SecretUnnamed    = "SecretUnnamed"
)

const (
	// usableFor is how long what a good Secret said is trusted, so that a start
	// with thousands of claims reads it once.
	usableFor = 30 * time.Second
	// findingFor is the same for a bad one, which somebody may be mending.
	findingFor = 2 * time.Second
)

// Backend finds servers by the Secrets of their classes.
type Backend struct {
	live client.Reader
	now  func() time.Time

	mu   sync.Mutex
	seen map[source]reading
}

// source is what a reading is of. The class is part of it, so that no class
// ever gets what was read for another.
type source struct {
	class  string
	secret v1alpha1.SecretReference
}

type reading struct {
	found   backend.Observed
	expires time.Time
}

// New reads Secrets from live, which should have no cache: it would hold every
// Secret of the cluster.
func New(live client.Reader) *Backend {
	return &Backend{live: live, now: time.Now, seen: map[source]reading{}}
}

// Observe says how to log in to the class's server as its Secret told within
// the last 30 s. It does not try to. A Secret that is missing or malformed is
// a finding; an API server that does not answer is an error.
func (b *Backend) Observe(ctx context.Context, want backend.Server) (backend.Observed, error) {
	if want.Class == nil || want.Class.Spec.Server == nil {
		return finding(SecretUnnamed, true, "The class names no Secret of its server: set spec.server.secretRef."), nil
	}
	from := source{want.Class.Name, want.Class.Spec.Server.SecretRef}
	b.mu.Lock()
	known, ok := b.seen[from]
	b.mu.Unlock()
	if ok && b.now().Before(known.expires) {
		return known.found, nil
	}
	found, err := b.read(ctx, from.secret)
	if err != nil {
		return backend.Observed{}, err
	}
	trust := findingFor
	if found.Usable {
		trust = usableFor
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for old, r := range b.seen {
		if old.class == from.class || !b.now().Before(r.expires) {
			delete(b.seen, old) // nobody asks for a renamed Secret or a deleted class again
		}
	}
	b.seen[from] = reading{found, b.now().Add(trust)}
	return found, nil
}

func (b *Backend) read(ctx context.Context, ref v1alpha1.SecretReference) (backend.Observed, error) {
	secret := &corev1.Secret{}
	switch err := b.live.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, secret); {
	case apierrors.IsNotFound(err):
		return finding(SecretMissing, false, "There is no Secret %s in namespace %s; create it with the key %s, or with %s, %s and %s.",
			ref.Name, ref.Namespace, keyURI, keyHost, keyUser, keyPassword), nil
	case apierrors.IsForbidden(err):
		return finding(SecretUnreadable, true, "Berth may not read Secret %s in namespace %s; let its ServiceAccount get it.", ref.Name, ref.Namespace), nil
	case err != nil:
		return backend.Observed{}, fmt.Errorf("reading Secret %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	admin, err := ReadTarget(secret.Data)
	if err != nil {
		found := finding(SecretMalformed, true, "In Secret %s of namespace %s, %s.", ref.Name, ref.Namespace, err)
		found.Exists = true
		return found, nil
	}
	return backend.Observed{Exists: true, Usable: true, Admin: admin}, nil
}

func finding(reason string, permanent bool, format string, args ...any) backend.Observed {
	return backend.Observed{Reason: reason, Permanent: permanent, Message: fmt.Sprintf(format, args...)}
}

// Apply does nothing: the server is somebody else's.
func (b *Backend) Apply(context.Context, backend.Server) error { return nil }

// Delete does nothing: the server and its data are somebody else's.
func (b *Backend) Delete(context.Context, string) error { return nil }

// List is empty: this backend makes no server.
func (b *Backend) List(context.Context) ([]string, error) { return nil, nil }
