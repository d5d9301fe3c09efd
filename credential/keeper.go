// Package credential makes passwords, their SCRAM verifiers and the Secrets
// that carry them, and rotates them without a failed login: two logins under
// one owner role, a journal before every use, a test login before every
// publication. It speaks to servers only through the Server interface.
package credential

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/step"
)

// Server is what a rotation needs of a database server. Every method is idempotent.
type Server interface {
	// SetLogin makes login usable with the password that verifier stands for.
	SetLogin(ctx context.Context, login, verifier string) error
	// TestLogin logs in and runs a statement, as the tenant will.
	TestLogin(ctx context.Context, login, password string) error
	Sessions(ctx context.Context, login string) (int, error)
	EndSessions(ctx context.Context, login string) (int, error)
	DisableLogin(ctx context.Context, login string) error
}

// Tenant is the object whose credential is kept.
type Tenant struct {
	Object     client.Object
	Kind       string // lower case, as in labels
	SecretName string
	Owner      string // role behind the logins
	Spec       v1alpha1.RotationSpec
	Password   v1alpha1.PasswordPolicy
	Policy     v1alpha1.RotationPolicy
	Templates  map[string]v1alpha1.Template
	Consumers  **v1alpha1.Consumers
	Current    **v1alpha1.CredentialStatus
	Connect    func(login, password string) Connection
}

// Keeper keeps the credentials of all tenants of one process.
type Keeper struct {
	Client client.Client // reads may be cached, for Secrets that berth wrote
	Live   client.Reader // reads are not cached
	Clock  clock.PassiveClock
	// Readers of the credentials; nil when none report.
	Readers Readers

	mu   sync.Mutex
	seen map[types.UID]sighting
}

// sighting is what this process saw of one credential. It saves reads, and
// measures a hold by the process's own monotonic clock, which no change of the
// wall clock shortens. Losing it costs time, never safety.
type sighting struct {
	verified string // resource version of the Secret whose password was checked
	version  int64
	since    time.Time
}

// Rotation is one pass over one tenant's credential. Its methods are the steps.
type Rotation struct {
	Tenant
	keeper  *Keeper
	server  Server
	explain func(error) step.Outcome
	secret  *corev1.Secret // as last seen; nil when there is none
	pending *entry         // tested and not yet published
}

// Open reads the tenant's Secret. The server may be nil when only Withdraw is called.
func (k *Keeper) Open(ctx context.Context, t Tenant, s Server, explain func(error) step.Outcome) (*Rotation, error) {
	r := &Rotation{Tenant: t, keeper: k, server: s, explain: explain}
	secret := &corev1.Secret{}
	err := k.Client.Get(ctx, r.key(), secret)
	if client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("reading Secret %s: %w", t.SecretName, err)
	}
	if err == nil && r.owns(secret) {
		r.secret = secret
	}
	return r, nil
}

// Forget drops what the process remembers of an object that is gone.
func (k *Keeper) Forget(uid types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.seen, uid)
}

// Published reports whether the tenant's Secret exists.
func (r *Rotation) Published() bool { return r.secret != nil }

func (k *Keeper) sighting(uid types.UID) sighting {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seen[uid]
}

func (k *Keeper) note(uid types.UID, change func(*sighting)) sighting {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen == nil {
		k.seen = map[types.UID]sighting{}
	}
	s := k.seen[uid]
	change(&s)
	k.seen[uid] = s
	return s
}

func (r *Rotation) key() client.ObjectKey {
	return client.ObjectKey{Namespace: r.Object.GetNamespace(), Name: r.SecretName}
}

func (r *Rotation) owns(o client.Object) bool {
	if metav1.IsControlledBy(o, r.Object) {
		return true
	}
	for key, value := range naming.Labels(r.Kind, r.Object.GetName()) {
		if o.GetLabels()[key] != value {
			return false
		}
	}
	return true
}

// Withdraw deletes the tenant's Secret and journal, if they are the tenant's.
func (r *Rotation) Withdraw(ctx context.Context) step.Outcome {
	secret := &corev1.Secret{}
	err := r.keeper.Live.Get(ctx, r.key(), secret)
	if err == nil && r.owns(secret) {
		err = r.keeper.Client.Delete(ctx, secret, client.Preconditions{UID: &secret.UID})
	}
	if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
		return step.Failed("SecretNotDeleted", fmt.Errorf("deleting Secret %s: %w", r.SecretName, err))
	}
	if err := r.dropJournal(ctx); err != nil {
		return step.Failed("JournalNotDeleted", err)
	}
	return step.Done()
}
