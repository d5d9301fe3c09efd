package rest

import (
	"context"
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authentication "k8s.io/api/authentication/v1"
)

// Audience is what a worker's token has to be made for: not that of proxies, so
// that neither can be shown at the other's door.
const Audience = "berth-api"

const (
	reviewLasts = time.Minute // a token that is taken away works this much longer
	reviews     = 10_000
)

var errNoWorker = fail(http.StatusUnauthorized, "missing or invalid ServiceAccount token")

// reviewed remembers who a token is of. It keeps no token.
type reviewed struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]review
}

type review struct {
	holder string
	until  time.Time
}

// worker is who asks, if it is one that may be handed an org's credentials.
func (a *API) worker(ctx context.Context, authorization string) (holder string, err error) {
	token, ok := strings.CutPrefix(authorization, "Bearer ")
	if !ok || token == "" {
		return "", errNoWorker
	}
	key, now := sha256.Sum256([]byte(token)), a.Clock.Now()
	a.reviewed.mu.Lock()
	known := a.reviewed.known[key]
	a.reviewed.mu.Unlock()
	if now.Before(known.until) {
		return known.holder, nil
	}
	r := &authentication.TokenReview{Spec: authentication.TokenReviewSpec{Token: token, Audiences: []string{Audience}}}
	if err := a.Live.Create(ctx, r); err != nil {
		return "", err
	}
	if !r.Status.Authenticated || !slices.Contains(r.Status.Audiences, Audience) {
		return "", errNoWorker
	}
	name, ok := strings.CutPrefix(r.Status.User.Username, "system:serviceaccount:")
	name = strings.Replace(name, ":", "/", 1)
	if !ok || !slices.Contains(a.Workers, name) {
		return "", fail(http.StatusForbidden, "this ServiceAccount is not a worker's")
	}
	holder = name
	if pod := r.Status.User.Extra["authentication.kubernetes.io/pod-name"]; len(pod) > 0 {
		holder += "/" + pod[0]
	}
	a.reviewed.mu.Lock()
	defer a.reviewed.mu.Unlock()
	if len(a.reviewed.known) >= reviews {
		clear(a.reviewed.known)
	}
	a.reviewed.known[key] = review{holder, now.Add(reviewLasts)}
	return holder, nil
}
