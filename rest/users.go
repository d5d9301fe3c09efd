package rest

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"golang.org/x/crypto/bcrypt"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
)

// rootUser is the user that provisioning makes.
const rootUser = "root"

// user is a login, without its password.
type user struct {
	Username string `json:"username"`
	OrgID    string `json:"org_id"`
}

var (
	errNoOrg  = fail(http.StatusNotFound, "org not found")
	errNoUser = fail(http.StatusNotFound, "user not found")
)

// UserPath is a user of an org.
type UserPath struct {
	OrgPath
	Username string `path:"username" maxLength:"63"`
}

type newUser struct {
	Username string `json:"username,omitempty" pattern:"^([a-z_][-a-z0-9_.]{0,62})?$"`
	OrgID    string `json:"org_id,omitempty" pattern:"^[-a-z0-9]*$" maxLength:"36"`
	Password string `json:"password,omitempty" maxLength:"72"`
}

func (a *API) userRoutes(api huma.API) {
	route(api, http.MethodGet, "/users", "All users", http.StatusOK, a.listUsers)
	route(api, http.MethodPost, "/users", "Make a user", http.StatusCreated, a.createUser)
	route(api, http.MethodGet, "/orgs/{id}/users/{username}", "One user", http.StatusOK, func(ctx context.Context, in *UserPath) (*struct{ Body user }, error) {
		org, err := a.org(ctx, in.ID)
		if err != nil || !slices.ContainsFunc(org.Spec.Users, named(in.Username)) {
			return nil, cmp.Or(ignoreNoOrg(err), errNoUser)
		}
		return &struct{ Body user }{user{in.Username, in.ID}}, nil
	})
	route(api, http.MethodPut, "/orgs/{id}/users/{username}", "Set a user's password", http.StatusOK, a.updateUser)
	route(api, http.MethodDelete, "/orgs/{id}/users/{username}", "Take a user away", http.StatusOK, a.deleteUser)
}

// ignoreNoOrg lets a user of an org that is not there be one that is not there.
func ignoreNoOrg(err error) error {
	if errors.Is(err, errNoOrg) {
		return nil
	}
	return err
}

func named(username string) func(v1alpha1.OrgUser) bool {
	return func(u v1alpha1.OrgUser) bool { return u.Name == username }
}

func (a *API) listUsers(ctx context.Context, in *paging) (*page[user], error) {
	orgs := &v1alpha1.OrgList{}
	if err := a.Cache.List(ctx, orgs); err != nil {
		return nil, err
	}
	var users []user
	for _, org := range orgs.Items {
		for _, u := range org.Spec.Users {
			users = append(users, user{u.Name, org.Name})
		}
	}
	return paged(users, in, func(u user) string { return u.OrgID + "/" + u.Username }), nil
}

func (a *API) createUser(ctx context.Context, in *struct {
	Mutation
	Body newUser
}) (*struct{ Body user }, error) {
	about(ctx, in.Body.OrgID)
	switch {
	case in.Body.Username == "" || in.Body.OrgID == "":
		return nil, fail(http.StatusBadRequest, "username and org_id are required")
	case in.Body.Password == "":
		return nil, fail(http.StatusBadRequest, "password is required")
	}
	err := a.addUser(ctx, in.Mutation, in.Body.OrgID, in.Body.Username, true)
	if err == nil {
		err = a.setPassword(ctx, in.Mutation, in.Body.OrgID, in.Body.Username, in.Body.Password, "")
	}
	return &struct{ Body user }{user{in.Body.Username, in.Body.OrgID}}, err
}

func (a *API) updateUser(ctx context.Context, in *struct {
	UserPath
	Mutation
	Body struct {
		Password string `json:"password,omitempty" maxLength:"72"`
	}
}) (*struct{ Body user }, error) {
	org := &v1alpha1.Org{}
	err := a.Live.Get(ctx, client.ObjectKey{Name: in.ID}, org)
	if apierrors.IsNotFound(err) || err == nil && !slices.ContainsFunc(org.Spec.Users, named(in.Username)) {
		return nil, errNoUser
	}
	if err == nil && in.Body.Password != "" {
		err = a.setPassword(ctx, in.Mutation, in.ID, in.Username, in.Body.Password, "")
	}
	return &struct{ Body user }{user{in.Username, in.ID}}, err
}

func (a *API) deleteUser(ctx context.Context, in *struct {
	UserPath
	Mutation
}) (*struct{ Body deleted }, error) {
	org := &v1alpha1.Org{ObjectMeta: metav1.ObjectMeta{Name: in.ID}}
	err := change(ctx, a, in.Mutation, org, func(org *v1alpha1.Org) error {
		before := len(org.Spec.Users)
		org.Spec.Users = slices.DeleteFunc(org.Spec.Users, named(in.Username))
		if len(org.Spec.Users) == before {
			return errNoUser
		}
		return nil
	})
	if apierrors.IsNotFound(err) {
		err = errNoUser
	}
	if err != nil {
		return nil, err
	}
	a.settled(ctx, org, in.Mutation)
	return &struct{ Body deleted }{deleted{in.Username}}, a.editHashes(ctx, in.Mutation, org, func(data map[string][]byte) { delete(data, in.Username) })
}

// deleted is the answer to a DELETE.
type deleted struct {
	Deleted string `json:"deleted"`
}

// addUser lists a user on its org. One that is there already is refused if it
// must be new.
func (a *API) addUser(ctx context.Context, m Mutation, id, username string, mustBeNew bool) error {
	org := &v1alpha1.Org{ObjectMeta: metav1.ObjectMeta{Name: id}}
	err := change(ctx, a, m, org, func(org *v1alpha1.Org) error {
		if !slices.ContainsFunc(org.Spec.Users, named(username)) {
			org.Spec.Users = append(org.Spec.Users, v1alpha1.OrgUser{Name: username, PasswordSecret: v1alpha1.SecretKeyReference{Name: naming.OrgUsers(id), Key: username}})
		} else if mustBeNew {
			return fail(http.StatusConflict, "user already exists")
		}
		return nil
	})
	if apierrors.IsNotFound(err) {
		return errNoOrg
	}
	if err == nil {
		a.settled(ctx, org, m)
	}
	return err
}

// setPassword keeps the hash of a password, and of the request that set it.
func (a *API) setPassword(ctx context.Context, m Mutation, id, username, password, request string) error {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return fail(http.StatusBadRequest, "password must have at most 72 bytes")
	}
	org := &v1alpha1.Org{}
	if err := a.Live.Get(ctx, client.ObjectKey{Name: id}, org); err != nil {
		return err
	}
	return a.editHashes(ctx, m, org, func(data map[string][]byte) {
		data[username] = hash
		delete(data, username+requestSuffix)
		if request != "" {
			data[username+requestSuffix] = []byte(request)
		}
	})
}

// requestSuffix makes the key of a user's last request; no user's name holds it.
const requestSuffix = "..request"

// editHashes changes the Secret with the password hashes of an org's users; it
// goes with the org.
func (a *API) editHashes(ctx context.Context, m Mutation, org *v1alpha1.Org, edit func(map[string][]byte)) error {
	if m.DryRun {
		return nil
	}
	for range attempts {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: a.Namespace, Name: naming.OrgUsers(org.Name)}}
		_, err := controllerutil.CreateOrUpdate(ctx, a.Live, secret, func() error {
			secret.Labels = naming.Labels(naming.OrgKind, org.Name)
			if secret.Data == nil {
				secret.Data = map[string][]byte{}
			}
			edit(secret.Data)
			return controllerutil.SetOwnerReference(org, secret, a.Live.Scheme())
		})
		if !isRace(err) && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return errRace
}

// hashes reads what editHashes keeps.
func (a *API) hashes(ctx context.Context, org string) (map[string][]byte, error) {
	secret := &corev1.Secret{}
	err := a.Live.Get(ctx, client.ObjectKey{Namespace: a.Namespace, Name: naming.OrgUsers(org)}, secret)
	return secret.Data, client.IgnoreNotFound(err)
}

func newPassword() string {
	bytes := make([]byte, 32)
	_, _ = rand.Read(bytes) // never fails
	return strings.TrimRight(base64.URLEncoding.EncodeToString(bytes), "=")
}
