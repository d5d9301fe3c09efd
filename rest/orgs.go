package rest

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// org is an organisation as the API shows it.
type org struct {
	Name               string     `json:"name"`
	DatabaseName       string     `json:"database_name"`
	MaxWorkers         int32      `json:"max_workers"`
	MemoryBudget       string     `json:"memory_budget"`
	IdleTimeoutSeconds int32      `json:"idle_timeout_s"`
	Users              []user     `json:"users"`
	Warehouse          *Lifecycle `json:"warehouse,omitempty"`
	CreatedAt          time.Time  `json:"created_at"`
}

// OrgFields are what of an org can be set.
type OrgFields struct {
	DatabaseName       string `json:"database_name,omitempty" maxLength:"63"`
	MaxWorkers         int32  `json:"max_workers,omitempty" minimum:"0"`
	MemoryBudget       string `json:"memory_budget,omitempty" maxLength:"32"`
	IdleTimeoutSeconds int32  `json:"idle_timeout_s,omitempty" minimum:"0"`
}

func (f OrgFields) spec() v1alpha1.OrgSpec {
	return v1alpha1.OrgSpec{DatabaseName: f.DatabaseName, MaxWorkers: f.MaxWorkers, MemoryBudget: f.MemoryBudget, IdleTimeoutSeconds: f.IdleTimeoutSeconds}
}

func (a *API) orgRoutes(api huma.API) {
	route(api, http.MethodGet, "/orgs", "All orgs", http.StatusOK, a.listOrgs)
	route(api, http.MethodPost, "/orgs", "Make an org", http.StatusCreated, a.createOrg)
	route(api, http.MethodGet, "/orgs/{id}", "One org", http.StatusOK, func(ctx context.Context, in *OrgPath) (*struct{ Body org }, error) {
		o, err := a.org(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		return &struct{ Body org }{a.show(ctx, o)}, nil
	})
	route(api, http.MethodPut, "/orgs/{id}", "Set an org's limits", http.StatusOK, a.updateOrg)
	route(api, http.MethodDelete, "/orgs/{id}", "Delete an org that has no warehouse", http.StatusOK, a.deleteOrg)
	route(api, http.MethodGet, "/database-name/check", "Whether a database name can be had", http.StatusOK, a.checkName)
}

// org reads one, or says that there is none.
func (a *API) org(ctx context.Context, id string) (*v1alpha1.Org, error) {
	o := &v1alpha1.Org{}
	if err := a.cached(ctx, id, o); apierrors.IsNotFound(err) {
		return nil, errNoOrg
	} else if err != nil {
		return nil, err
	}
	return o, nil
}

// show is what the API says of an org; its warehouse is what the cache knows.
func (a *API) show(ctx context.Context, o *v1alpha1.Org) org {
	shown := org{
		Name: o.Name, DatabaseName: o.Database(), MaxWorkers: o.Spec.MaxWorkers, MemoryBudget: o.Spec.MemoryBudget,
		IdleTimeoutSeconds: o.Spec.IdleTimeoutSeconds, Users: []user{}, CreatedAt: o.CreationTimestamp.UTC(),
	}
	for _, u := range o.Spec.Users {
		shown.Users = append(shown.Users, user{u.Name, o.Name})
	}
	w := &v1alpha1.Warehouse{}
	if a.Cache.Get(ctx, client.ObjectKey{Name: o.Name}, w) == nil {
		s := statusOf(w)
		shown.Warehouse = &s
	}
	return shown
}

func (a *API) listOrgs(ctx context.Context, in *paging) (*page[org], error) {
	orgs := &v1alpha1.OrgList{}
	if err := a.Cache.List(ctx, orgs); err != nil {
		return nil, err
	}
	part := paged(orgs.Items, in, func(o v1alpha1.Org) string { return o.Name })
	shown := make([]org, len(part.Body))
	for i := range part.Body {
		shown[i] = a.show(ctx, &part.Body[i])
	}
	return &page[org]{Continue: part.Continue, Body: shown}, nil
}

func (a *API) createOrg(ctx context.Context, in *struct {
	Mutation
	Body struct {
		Name string `json:"name,omitempty"`
		OrgFields
	}
}) (*struct{ Body org }, error) {
	if in.Body.Name == "" {
		return nil, fail(http.StatusBadRequest, "name is required")
	}
	about(ctx, in.Body.Name)
	if err := a.free(ctx, in.Body.DatabaseName, in.Body.Name); err != nil {
		return nil, err
	}
	o := &v1alpha1.Org{ObjectMeta: metav1.ObjectMeta{Name: in.Body.Name}, Spec: in.Body.spec()}
	if err := a.Live.Create(ctx, o, in.create()...); apierrors.IsAlreadyExists(err) {
		return nil, fail(http.StatusConflict, "org already exists")
	} else if err != nil {
		return nil, err
	}
	a.settled(ctx, o, in.Mutation)
	return &struct{ Body org }{a.show(ctx, o)}, nil
}

func (a *API) updateOrg(ctx context.Context, in *struct {
	OrgPath
	Mutation
	Body OrgFields
}) (*struct{ Body org }, error) {
	if err := a.free(ctx, in.Body.DatabaseName, in.ID); err != nil {
		return nil, err
	}
	o := &v1alpha1.Org{ObjectMeta: metav1.ObjectMeta{Name: in.ID}}
	err := change(ctx, a, in.Mutation, o, func(o *v1alpha1.Org) error {
		spec := in.Body.spec()
		spec.Users = o.Spec.Users
		if spec.DatabaseName == "" {
			spec.DatabaseName = o.Spec.DatabaseName
		}
		o.Spec = spec
		return nil
	})
	if apierrors.IsNotFound(err) {
		err = errNoOrg
	}
	if err != nil {
		return nil, err
	}
	a.settled(ctx, o, in.Mutation)
	return &struct{ Body org }{a.show(ctx, o)}, nil
}

func (a *API) deleteOrg(ctx context.Context, in *struct {
	OrgPath
	Mutation
}) (*struct{ Body deleted }, error) {
	w := &v1alpha1.Warehouse{}
	switch err := a.Live.Get(ctx, client.ObjectKey{Name: in.ID}, w); {
	case err == nil && w.State() != v1alpha1.StateDeleted:
		return nil, fail(http.StatusConflict, "the org has a warehouse that is "+string(w.State())+"; deprovision it first")
	case client.IgnoreNotFound(err) != nil:
		return nil, err
	}
	o := &v1alpha1.Org{ObjectMeta: metav1.ObjectMeta{Name: in.ID}}
	var options []client.DeleteOption
	if in.DryRun {
		options = append(options, client.DryRunAll)
	}
	if err := a.Live.Delete(ctx, o, options...); apierrors.IsNotFound(err) {
		return nil, errNoOrg
	} else if err != nil {
		return nil, err
	}
	return &struct{ Body deleted }{deleted{in.ID}}, nil
}

// databaseName is the form that the API server accepts.
var databaseName = regexp.MustCompile(`^[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?$`)

// free refuses a database name that an org other than id has. The controller
// decides a race; this spares most people one.
func (a *API) free(ctx context.Context, name, id string) error {
	if name == "" {
		name = id
	}
	orgs := &v1alpha1.OrgList{}
	if err := a.Cache.List(ctx, orgs); err != nil {
		return err
	}
	if slices.ContainsFunc(orgs.Items, func(o v1alpha1.Org) bool { return o.Name != id && o.Database() == name }) {
		return fail(http.StatusConflict, "provision conflicts with existing state (likely database_name in use): another org has "+name)
	}
	return nil
}

// availability says whether a provisioning could have the name.
type availability struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	Reason    string `json:"reason,omitempty"`
}

func (a *API) checkName(ctx context.Context, in *struct {
	Name string `query:"name" maxLength:"1000"`
}) (*struct{ Body availability }, error) {
	answer := availability{Name: in.Name, Available: true}
	if !databaseName.MatchString(in.Name) {
		answer.Available, answer.Reason = false, "a database name has 1 to 63 lower-case letters, digits, '-' and '_', with a letter or digit at both ends"
	} else if err := a.free(ctx, in.Name, ""); err != nil {
		if explain(err).status != http.StatusConflict {
			return nil, err
		}
		answer.Available, answer.Reason = false, "another org has it"
	}
	return &struct{ Body availability }{answer}, nil
}
