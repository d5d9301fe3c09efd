package rest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authentication "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/cloud"
	"github.com/berth-dev/berth/rest"
)

// token is one of a ServiceAccount of the world's namespace.
func (w *world) token(account, audience string) string {
	w.t.Helper()
	o := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: account}}
	_ = w.Create(w.t.Context(), o) // it may be there
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{Audiences: []string{audience}}}
	if err := w.SubResource("token").Create(w.t.Context(), o, request); err != nil {
		w.t.Fatal(err)
	}
	return request.Status.Token
}

// usable makes a warehouse one that can be activated.
func (w *world) usable(id string) {
	w.t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: id + "-metadata"}, StringData: map[string]string{"password": `p w'"\`}}
	if err := w.Create(w.t.Context(), secret); err != nil {
		w.t.Fatal(err)
	}
	w.becomes(id, func(o *v1alpha1.Warehouse) {
		ready(o)
		o.Status.MetadataStore = &v1alpha1.MetadataStoreStatus{Endpoint: "db.example.org", Port: 5432, Database: "my db", Username: "u", Pooler: "pool.example.org:6543",
			Credential: &v1alpha1.SecretKeyReference{Namespace: w.Namespace, Name: id + "-metadata", Key: "password"}}
		o.Status.DataStore = &v1alpha1.DataStoreStatus{BucketName: "b", Region: "eu-central-1", PathPrefix: "/lake/"}
		o.Status.Identity = &v1alpha1.IdentityStatus{RoleARN: "arn:aws:iam::1:role/" + id}
	})
}

func TestActivation(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	var fault error
	w := newWorld(t, func(w *world) {
		w.options.Workers = []string{w.Namespace + "/worker"}
		w.options.Broker = cloud.New(cloud.Options{Assume: func(_ context.Context, r cloud.Request) (cloud.Credentials, error) {
			calls.Add(1)
			return cloud.Credentials{AccessKeyID: "AKIA", SecretAccessKey: "hush", SessionToken: "token of " + r.ARN, Expires: time.Now().Add(r.Duration)}, fault
		}})
	})
	id := w.id("acme")
	activate := func(token string) answer {
		return w.ask("POST", "/api/v1/orgs/"+id+"/activation", "", "X-Berth-Internal-Secret: ", "Authorization: Bearer "+token)
	}
	worker := w.token("worker", rest.Audience)
	w.says(activate(worker), 404, `{"error":"no org configured for user","sqlstate":"28000"}`)
	w.ask("POST", "/api/v1/orgs/"+id+"/provision", aurora)
	w.ask("POST", "/api/v1/users", `{"username":"ann","org_id":"`+id+`","password":"x"}`)
	w.usable(id)
	for name, token := range map[string]struct {
		token  string
		status int
	}{
		"nothing":                      {"", 401},
		"the internal secret":          {secret, 401},
		"a token for another audience": {w.token("worker", "elsewhere"), 401},
		"a token of a proxy":           {w.token("worker", "berth.dev"), 401},
		"another ServiceAccount":       {w.token("stranger", rest.Audience), 403},
		"a worker":                     {worker, 200},
		"a worker again":               {worker, 200},
	} {
		if got := activate(token.token); got.Status != token.status {
			t.Errorf("%s gets %d %s", name, got.Status, got.Text)
		}
	}
	var payload map[string]any
	if err := json.Unmarshal([]byte(activate(worker).Text), &payload); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"metadata_store": `postgres:host=pool.example.org port=6543 user=u password=p\ w\'\"\\ dbname=my\ db`, "object_store": "s3://b/lake/",
		"s3_provider": "config", "s3_endpoint": "", "s3_region": "eu-central-1", "s3_url_style": "path", "s3_use_ssl": true,
		"s3_access_key": "AKIA", "s3_secret_key": "hush", "s3_session_token": "token of arn:aws:iam::1:role/" + id,
	}
	if diff := cmp.Diff(want, payload["ducklake"]); diff != "" {
		t.Error(diff)
	}
	if users := fmt.Sprint(payload["usernames"]); users != "[ann root]" || calls.Load() != 1 {
		t.Errorf("the users are %s, after %d calls", users, calls.Load())
	}
	expires, _ := time.Parse(time.RFC3339, fmt.Sprint(payload["s3_credentials_expires_at"]))
	refresh, _ := time.Parse(time.RFC3339, fmt.Sprint(payload["refresh_after"]))
	if expires.Sub(refresh) != 30*time.Minute {
		t.Errorf("they end at %s, and are to be refreshed at %s", expires, refresh)
	}
	for _, shown := range []string{"hush", `p w`, worker} {
		if strings.Contains(w.Log.String(), shown) {
			t.Errorf("the log shows %q", shown)
		}
	}
	w.options.Broker.Revoke("arn:aws:iam::1:role/" + id)
	fault = errors.New("AccessDenied")
	if got := activate(worker); got.Status != 503 || got.Header.Get("Retry-After") == "" || strings.Contains(got.Text, "AccessDenied") {
		t.Errorf("while the service refuses: %d %s", got.Status, got.Text)
	}
}

func TestActivationRefusesInTheTenantsWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.options.Workers = []string{w.Namespace + "/worker"} })
	worker := w.token("worker", rest.Audience)
	id := w.id("acme")
	w.ask("POST", "/api/v1/orgs/"+id+"/provision", aurora)
	expect := func(sentence, after string) {
		t.Helper()
		got := w.ask("POST", "/api/v1/orgs/"+id+"/activation", "", "Authorization: Bearer "+worker)
		w.says(got, 503, `{"error":"`+sentence+`","sqlstate":"57P03"}`)
		if got.Header.Get("Retry-After") != after {
			t.Errorf("come back after %q", got.Header.Get("Retry-After"))
		}
	}
	expect("warehouse is still provisioning, please retry in a few minutes", "30")
	w.becomes(id, provisioning)
	expect("warehouse is still provisioning, please retry in a few minutes", "30")
	w.becomes(id, failed)
	expect("warehouse provisioning failed; contact support", "300")
	w.becomes(id, ready)
	expect("warehouse is starting up, please retry in a few seconds", "5")
	w.usable(id)
	if got := w.ask("POST", "/api/v1/orgs/"+id+"/activation", "", "Authorization: Bearer "+worker); got.Status != 200 || !strings.Contains(got.Text, `"s3_provider":"aws_sdk"`) {
		t.Errorf("without a broker: %d %s", got.Status, got.Text)
	}
	w.becomes(id, func(o *v1alpha1.Warehouse) { o.Status.MetadataStore.Credential.Name = "umbrella-metadata" })
	w.until("the other Secret to be refused", func() bool {
		got := w.ask("POST", "/api/v1/orgs/"+id+"/activation", "", "Authorization: Bearer "+worker)
		return got.Status == 500 && strings.Contains(got.Text, "not its org's")
	})
	w.ask("POST", "/api/v1/orgs/"+id+"/deprovision", "")
	expect("warehouse is being deleted", "300")
	w.becomes(id, released)
	expect("warehouse is being deleted", "300")
}
