package main

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
)

// view is what `berth get` shows. It holds no value of a Secret.
type view struct {
	claims  []v1alpha1.DatabaseClaim
	roles   []v1alpha1.RoleClaim // on these claims, and in a list those without a claim here
	classes []v1alpha1.DatabaseClass
	moves   []v1alpha1.Migration // of these claims, and not over
	secrets map[client.ObjectKey]sealed
}

// sealed is a Secret seen from outside.
type sealed struct {
	hidden bool // the API does not let this person read it
	keys   int
	made   metav1.Time
}

// viewOne reads the claim of that name with its role claims, or else the role
// claim of that name alone.
func (d *desk) viewOne(ctx context.Context, name string) (*view, error) {
	v := &view{secrets: map[client.ObjectKey]sealed{}}
	key := client.ObjectKey{Namespace: d.namespace, Name: name}
	claim := &v1alpha1.DatabaseClaim{}
	switch err := d.api.Get(ctx, key, claim); {
	case err == nil:
		v.claims = []v1alpha1.DatabaseClaim{*claim}
		roles, err := d.rolesAnywhere(ctx, key.Namespace)
		if err != nil {
			return nil, err
		}
		v.roles = slices.DeleteFunc(roles, func(r v1alpha1.RoleClaim) bool { return claimOf(&r) != key })
		if v.moves, err = d.migrations(ctx, client.InNamespace(key.Namespace)); err != nil {
			return nil, err
		}
	case apierrors.IsNotFound(err):
		role := &v1alpha1.RoleClaim{}
		if d.api.Get(ctx, key, role) != nil {
			return nil, fmt.Errorf("there is no claim %s in namespace %s; berth get -A lists all", name, key.Namespace)
		}
		v.roles = []v1alpha1.RoleClaim{*role}
	default:
		return nil, fmt.Errorf("reading DatabaseClaim %s: %w", key, err)
	}
	for _, key := range v.secretKeys() {
		secret := &corev1.Secret{}
		switch err := d.api.Get(ctx, key, secret); {
		case err == nil:
			v.secrets[key] = sealed{keys: len(secret.Data), made: secret.CreationTimestamp}
		case apierrors.IsForbidden(err):
			v.secrets[key] = sealed{hidden: true}
		case !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("reading Secret %s: %w", key, err)
		}
	}
	return v, nil
}

// rolesAnywhere lists the role claims of all namespaces, or of one for who may
// not see more.
func (d *desk) rolesAnywhere(ctx context.Context, namespace string) ([]v1alpha1.RoleClaim, error) {
	roles := &v1alpha1.RoleClaimList{}
	err := d.api.List(ctx, roles)
	if apierrors.IsForbidden(err) {
		err = d.api.List(ctx, roles, client.InNamespace(namespace))
	}
	if err != nil {
		return nil, fmt.Errorf("listing RoleClaims: %w", err)
	}
	return roles.Items, nil
}

// viewAll reads the claims and role claims of the namespace, or of all, and
// the classes.
func (d *desk) viewAll(ctx context.Context) (*view, error) {
	claims, roles, classes := &v1alpha1.DatabaseClaimList{}, &v1alpha1.RoleClaimList{}, &v1alpha1.DatabaseClassList{}
	if err := d.api.List(ctx, claims, d.within()); err != nil {
		return nil, fmt.Errorf("listing DatabaseClaims: %w", err)
	}
	if err := d.api.List(ctx, roles, d.within()); err != nil {
		return nil, fmt.Errorf("listing RoleClaims: %w", err)
	}
	if err := d.api.List(ctx, classes); err != nil && !apierrors.IsForbidden(err) {
		return nil, fmt.Errorf("listing DatabaseClasses: %w", err)
	}
	moves, err := d.migrations(ctx, d.within())
	if err != nil {
		return nil, err
	}
	v := &view{claims: claims.Items, roles: roles.Items, classes: classes.Items, moves: moves, secrets: map[client.ObjectKey]sealed{}}
	secrets := &corev1.SecretList{}
	err = d.api.List(ctx, secrets, d.within(), client.MatchingLabels{naming.ManagedByLabel: naming.ManagedBy})
	if apierrors.IsForbidden(err) {
		for _, key := range v.secretKeys() {
			v.secrets[key] = sealed{hidden: true}
		}
		return v, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing Secrets: %w", err)
	}
	for i := range secrets.Items {
		s := &secrets.Items[i]
		v.secrets[client.ObjectKeyFromObject(s)] = sealed{keys: len(s.Data), made: s.CreationTimestamp}
	}
	return v, nil
}

func (v *view) secretKeys() []client.ObjectKey {
	var keys []client.ObjectKey
	for i := range v.claims {
		keys = append(keys, secretOfClaim(&v.claims[i]))
	}
	for i := range v.roles {
		keys = append(keys, client.ObjectKey{Namespace: v.roles[i].Namespace, Name: tenantOfRole(&v.roles[i]).secret})
	}
	return keys
}

func (v *view) objects() []client.Object {
	var objects []client.Object
	for i := range v.classes {
		objects = append(objects, &v.classes[i])
	}
	for i := range v.claims {
		objects = append(objects, &v.claims[i])
	}
	for i := range v.roles {
		objects = append(objects, &v.roles[i])
	}
	return objects
}
