package rest

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/cloud"
	"github.com/berth-dev/berth/naming"
)

// lease is how long a worker may serve the org it was activated for.
const lease = 24 * time.Hour

// activation is all that a worker needs to serve an org, secrets included.
type activation struct {
	OrgID                string     `json:"org_id"`
	Usernames            []string   `json:"usernames"`
	LeaseExpiresAt       time.Time  `json:"lease_expires_at"`
	DuckLake             duckLake   `json:"ducklake"`
	Iceberg              *iceberg   `json:"iceberg,omitempty"`
	CredentialsExpiresAt *time.Time `json:"s3_credentials_expires_at,omitempty"`
	// RefreshAfter is when to activate again for fresh credentials.
	RefreshAfter *time.Time `json:"refresh_after,omitempty"`
}

// duckLake is how to attach the warehouse. Every key is always there: one that
// is left out lets the client's own environment fill it in.
type duckLake struct {
	MetadataStore string `json:"metadata_store"`
	ObjectStore   string `json:"object_store"`
	Provider      string `json:"s3_provider"`
	Endpoint      string `json:"s3_endpoint"`
	Region        string `json:"s3_region"`
	URLStyle      string `json:"s3_url_style"`
	UseSSL        bool   `json:"s3_use_ssl"`
	AccessKey     string `json:"s3_access_key"`
	SecretKey     string `json:"s3_secret_key"`
	SessionToken  string `json:"s3_session_token"`
}

// notNow is what a tenant hears whose warehouse does not serve; SQLSTATE 57P03
// makes clients try again.
func notNow(sentence string, after int) *problem {
	return &problem{status: http.StatusServiceUnavailable, Message: sentence, SQLState: "57P03", after: after}
}

var errStarting = notNow("warehouse is starting up, please retry in a few seconds", 5)

// decideActivation refuses what cannot serve, in the words for the tenant.
func decideActivation(w *v1alpha1.Warehouse) error {
	switch w.State() {
	case v1alpha1.StatePending, v1alpha1.StateProvisioning:
		return notNow("warehouse is still provisioning, please retry in a few minutes", 30)
	case v1alpha1.StateFailed:
		return notNow("warehouse provisioning failed; contact support", 300)
	case v1alpha1.StateDeleting, v1alpha1.StateDeleted:
		return notNow("warehouse is being deleted", 300)
	}
	s := w.Status
	if meta.IsStatusConditionFalse(s.Conditions, v1alpha1.Usable) || s.MetadataStore == nil || s.DataStore == nil || s.MetadataStore.Credential == nil {
		return errStarting
	}
	return nil
}

func (a *API) activate(ctx context.Context, in *struct {
	OrgPath
	Authorization string `header:"Authorization" doc:"Bearer and the ServiceAccount's token"`
}) (*struct{ Body activation }, error) {
	holder, err := a.worker(ctx, in.Authorization)
	if err != nil {
		return nil, err
	}
	org, err := a.org(ctx, in.ID)
	if errors.Is(err, errNoOrg) {
		return nil, &problem{status: http.StatusNotFound, Message: "no org configured for user", SQLState: "28000"}
	} else if err != nil {
		return nil, err
	}
	w, err := a.warehouse(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := decideActivation(w); err != nil {
		return nil, err
	}
	answer := activation{OrgID: org.Name, Usernames: []string{}, LeaseExpiresAt: a.Clock.Now().Add(lease).UTC(), Iceberg: icebergOf(w)}
	for _, u := range org.Spec.Users {
		answer.Usernames = append(answer.Usernames, u.Name)
	}
	slices.Sort(answer.Usernames)
	username, password, err := a.login(ctx, w)
	if err != nil {
		return nil, err
	}
	answer.DuckLake = duckLakeOf(w, username, password)
	return &struct{ Body activation }{answer}, a.lend(ctx, w, holder, &answer)
}

// login reads a metadata store's, only from a Secret that is the org's own. One
// that names its user goes before the status: its password belongs to that user.
func (a *API) login(ctx context.Context, w *v1alpha1.Warehouse) (username, password string, err error) {
	ref := w.Status.MetadataStore.Credential
	own := ref.Namespace == a.Namespace || ref.Namespace == a.CompositeNamespace
	if !own || !naming.OwnedBy(w.Name, ref.Name) {
		return "", "", fail(http.StatusInternalServerError, "the warehouse names a Secret that is not its org's")
	}
	secret := &corev1.Secret{}
	if err := a.Live.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, secret); client.IgnoreNotFound(err) != nil {
		return "", "", err
	}
	if len(secret.Data[ref.Key]) == 0 {
		return "", "", errStarting
	}
	return cmp.Or(string(secret.Data["username"]), w.Status.MetadataStore.Username), string(secret.Data[ref.Key]), nil
}

// lend adds credentials of the warehouse's role, and when to come back for more.
func (a *API) lend(ctx context.Context, w *v1alpha1.Warehouse, holder string, to *activation) error {
	if a.Broker == nil || w.Status.Identity == nil {
		return nil // the worker's own identity reaches the bucket
	}
	c, err := a.Broker.Get(ctx, cloud.Role{ARN: w.Status.Identity.RoleARN, Policy: w.Status.Identity.Policy}, holder)
	if err != nil {
		a.Log.Warn("credentials were not issued", "org", w.Name, "error", err)
		return notNow("warehouse is starting up, please retry in a few seconds", 10)
	}
	to.DuckLake.Provider, to.DuckLake.AccessKey, to.DuckLake.SecretKey, to.DuckLake.SessionToken = "config", c.AccessKeyID, c.SecretAccessKey, c.SessionToken
	expires, refresh := c.Expires.UTC(), c.Expires.Add(-a.Broker.Lookahead()).UTC()
	to.CredentialsExpiresAt, to.RefreshAfter = &expires, &refresh
	return nil
}

func duckLakeOf(w *v1alpha1.Warehouse, username, password string) duckLake {
	store, bucket := w.Status.MetadataStore, s3Of(w)
	host, port := store.Endpoint, strconv.Itoa(int(store.Port))
	if h, p, err := net.SplitHostPort(store.Pooler); err == nil {
		host, port = h, p
	}
	d := duckLake{
		MetadataStore: "postgres:host=" + escapeDSN(host) + " port=" + port + " user=" + escapeDSN(username) + " password=" + escapeDSN(password) + " dbname=" + escapeDSN(store.Database),
		Provider:      "aws_sdk", Endpoint: bucket.Endpoint, Region: bucket.Region, URLStyle: bucket.URLStyle, UseSSL: bucket.UseSSL,
	}
	if bucket.Bucket != "" {
		d.ObjectStore = "s3://" + bucket.Bucket + "/"
		if path := strings.Trim(bucket.PathPrefix, "/"); path != "" {
			d.ObjectStore += path + "/"
		}
	}
	return d
}

var dsnEscapes = strings.NewReplacer(`\`, `\\`, " ", `\ `, "'", `\'`, `"`, `\"`, "\t", "\\\t", "\n", "\\\n", "\r", "\\\r")

func escapeDSN(s string) string { return dsnEscapes.Replace(s) }

// s3Of is the bucket as clients name its parts.
func s3Of(w *v1alpha1.Warehouse) s3 {
	b := s3{Provider: "aws", Region: cmp.Or(w.Spec.DataStore.Region, "us-east-1"), Bucket: w.Spec.DataStore.BucketName, PathPrefix: w.Spec.DataStore.PathPrefix, UseSSL: true, URLStyle: "path"}
	found := w.Status.DataStore
	if found == nil {
		return b
	}
	b.Bucket, b.Region, b.PathPrefix = found.BucketName, cmp.Or(found.Region, b.Region), cmp.Or(found.PathPrefix, b.PathPrefix)
	if u, err := url.Parse(found.Endpoint); err == nil && u.Host != "" {
		b.Endpoint, b.UseSSL = u.Host, u.Scheme == "https"
	}
	return b
}
