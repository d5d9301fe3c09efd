package switchboard

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/switchboard/wire"
	"github.com/berth-dev/berth/webhook"
)

// Identity is the pod that a token is bound to.
type Identity struct{ Namespace, Pod, UID string }

// refusal is an answer to a proxy, with the reason.
type refusal struct {
	code   int
	reason string
}

func (r *refusal) Error() string { return r.reason }

func refuse(code int, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

const (
	reviewLife  = time.Minute
	reviewLimit = 4096 // answers that are remembered
	reviewers   = 16   // questions to the API server at once
)

// doorman tells who holds a token. A yes is remembered for reviewLife, a no for
// a tenth of it.
type doorman struct {
	api    client.Client
	asking chan struct{}

	mu   sync.Mutex
	seen map[[sha256.Size]byte]review
}

type review struct {
	who   Identity
	err   error
	until time.Time
}

func newDoorman(api client.Client) *doorman {
	return &doorman{api: api, asking: make(chan struct{}, reviewers), seen: map[[sha256.Size]byte]review{}}
}

// identify returns the pod of the request's token.
func (d *doorman) identify(r *http.Request) (Identity, error) {
	token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !found || token == "" {
		return Identity{}, refuse(http.StatusUnauthorized, "there is no bearer token")
	}
	key := sha256.Sum256([]byte(token))
	d.mu.Lock()
	known, found := d.seen[key]
	d.mu.Unlock()
	if found && time.Now().Before(known.until) {
		return known.who, known.err
	}
	select {
	case d.asking <- struct{}{}:
		defer func() { <-d.asking }()
	case <-r.Context().Done():
		return Identity{}, r.Context().Err()
	}
	who, err := d.review(r.Context(), token)
	var no *refusal
	switch {
	case err == nil:
		d.remember(key, review{who, nil, time.Now().Add(reviewLife)})
	case errors.As(err, &no):
		d.remember(key, review{who, err, time.Now().Add(reviewLife / 10)})
	}
	return who, err
}

func (d *doorman) remember(key [sha256.Size]byte, r review) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for k, old := range d.seen {
		if len(d.seen) < reviewLimit {
			break
		}
		if now.After(old.until) {
			delete(d.seen, k)
		}
	}
	if len(d.seen) >= reviewLimit {
		clear(d.seen)
	}
	d.seen[key] = r
}

func (d *doorman) review(ctx context.Context, token string) (Identity, error) {
	asked := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{wire.Audience}}}
	if err := d.api.Create(ctx, asked); err != nil {
		return Identity{}, fmt.Errorf("reviewing a token: %w", err)
	}
	status := asked.Status
	if !status.Authenticated || !slices.Contains(status.Audiences, wire.Audience) {
		return Identity{}, refuse(http.StatusUnauthorized, "the token is not valid for audience %s", wire.Audience)
	}
	namespace, _, account := strings.Cut(strings.TrimPrefix(status.User.Username, "system:serviceaccount:"), ":")
	one := func(key string) string {
		if values := status.User.Extra["authentication.kubernetes.io/"+key]; len(values) == 1 {
			return values[0]
		}
		return ""
	}
	who := Identity{Namespace: namespace, Pod: one("pod-name"), UID: one("pod-uid")}
	if !account || !strings.HasPrefix(status.User.Username, "system:serviceaccount:") || who.Pod == "" || who.UID == "" {
		return Identity{}, refuse(http.StatusForbidden, "the token is not bound to a pod")
	}
	return who, nil
}

// admit finds the claim that a pod's proxy belongs to, and what is injected
// there. Only a claim whose Secret the pod mounts counts: a proxy is never told
// a password that its pod could not read.
func admit(ctx context.Context, api client.Client, who Identity, name string) (Claim, []credential.Sidecar, error) {
	pod := &corev1.Pod{}
	err := api.Get(ctx, client.ObjectKey{Namespace: who.Namespace, Name: who.Pod}, pod)
	switch {
	case apierrors.IsNotFound(err), err == nil && string(pod.UID) != who.UID:
		return Claim{}, nil, refuse(http.StatusForbidden, "the pod of the token is gone")
	case err != nil:
		return Claim{}, nil, fmt.Errorf("reading pod %s/%s: %w", who.Namespace, who.Pod, err)
	}
	ask := webhook.ReadAsk(pod.Labels)
	if !ask.Proxy || ask.Claim == "" || ask.Claim != name {
		return Claim{}, nil, refuse(http.StatusForbidden, "the pod's labels do not ask for a dbproxy of claim %q", name)
	}
	var sidecars []credential.Sidecar
	for _, s := range webhook.Injected(pod) {
		sidecars = append(sidecars, credential.Sidecar{Kind: s.Kind, Revision: s.Image})
	}
	claim, err := claimOf(ctx, api, pod, name)
	return claim, sidecars, err
}

func claimOf(ctx context.Context, api client.Reader, pod *corev1.Pod, name string) (Claim, error) {
	key := client.ObjectKey{Namespace: pod.Namespace, Name: name}
	role := &v1alpha1.RoleClaim{}
	err := api.Get(ctx, key, role)
	if client.IgnoreNotFound(err) != nil {
		return Claim{}, fmt.Errorf("reading RoleClaim %s: %w", key, err)
	}
	if err == nil && mounts(pod, cmp.Or(role.Spec.SecretName, name)) {
		if len(role.Spec.SchemaRoleMap) > 0 {
			return Claim{naming.RoleKind, key}, nil
		}
		return original(ctx, api, role)
	}
	claim := &v1alpha1.DatabaseClaim{}
	err = api.Get(ctx, key, claim)
	if client.IgnoreNotFound(err) != nil {
		return Claim{}, fmt.Errorf("reading DatabaseClaim %s: %w", key, err)
	}
	if err == nil && mounts(pod, cmp.Or(claim.Spec.SecretName, name)) {
		return Claim{naming.ClaimKind, key}, nil
	}
	return Claim{}, refuse(http.StatusForbidden, "the pod mounts no Secret of a DatabaseClaim or RoleClaim %q", name)
}

// original is the claim whose login a copy has, if it lets the copy in.
func original(ctx context.Context, api client.Reader, role *v1alpha1.RoleClaim) (Claim, error) {
	ref := role.Spec.SourceDatabaseClaim
	key := client.ObjectKey{Namespace: cmp.Or(ref.Namespace, role.Namespace), Name: ref.Name}
	claim := &v1alpha1.DatabaseClaim{}
	err := api.Get(ctx, key, claim)
	if client.IgnoreNotFound(err) != nil {
		return Claim{}, fmt.Errorf("reading DatabaseClaim %s: %w", key, err)
	}
	if err != nil || key.Namespace != role.Namespace && !slices.Contains(claim.Spec.AllowedNamespaces, role.Namespace) {
		return Claim{}, refuse(http.StatusForbidden, "RoleClaim %q copies no claim that lets namespace %s in", role.Name, role.Namespace)
	}
	return Claim{naming.ClaimKind, key}, nil
}

func mounts(pod *corev1.Pod, secret string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Secret != nil && v.Secret.SecretName == secret
	})
}
