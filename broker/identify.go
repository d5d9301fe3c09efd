package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Labels of a namespace that say whose backups are restored in it. Whoever may
// label namespaces decides who may read which backups.
const (
	GroupLabel = "berth.dev/group"
	TypeLabel  = "berth.dev/type"
)

const accountPrefix = "system:serviceaccount:"

// Identify has the API server review each token, and reads the labels of its
// namespace. Nothing is remembered: a token that is withdrawn is so at once.
func Identify(api client.Client) func(context.Context, string) (Scope, error) {
	return func(ctx context.Context, token string) (Scope, error) {
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{Audience}}}
		if err := api.Create(ctx, review); err != nil {
			return Scope{}, fmt.Errorf("reviewing a token: %w", err)
		}
		if !review.Status.Authenticated || !slices.Contains(review.Status.Audiences, Audience) {
			return Scope{}, ErrUnknown
		}
		account, found := strings.CutPrefix(review.Status.User.Username, accountPrefix)
		name, _, _ := strings.Cut(account, ":")
		if !found || name == "" {
			return Scope{}, fmt.Errorf("%w: it is of no ServiceAccount", ErrUnknown)
		}
		namespace := &corev1.Namespace{}
		if err := api.Get(ctx, client.ObjectKey{Name: name}, namespace); err != nil {
			return Scope{}, fmt.Errorf("reading namespace %s: %w", name, err)
		}
		return Scope{namespace.Labels[GroupLabel], namespace.Labels[TypeLabel]}, nil
	}
}
