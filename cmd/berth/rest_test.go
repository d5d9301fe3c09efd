package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	authentication "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/agent/s3/s3test"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/process"
	berthrest "github.com/berth-dev/berth/rest"
)

// service is a `berth dev` that serves the API.
type service struct {
	t       *testing.T
	address string
	data    string
}

// serveDev starts one with args and environment, and returns once it is ready.
func serveDev(t *testing.T, env []string, args ...string) service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, out := service{t, l.Addr().String(), testkit.OpenDir(t)}, &output{}
	l.Close()
	p, err := process.Start(process.Spec{Path: testkit.Program(t), Log: out, Env: append(os.Environ(), env...),
		Args: append([]string{"dev", "--data", s.data, "--bin", testkit.Bin(t, ""), "--api-address", s.address, "--metrics-address", "0"}, args...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(20 * time.Second) })
	eventually(t, "berth dev to be ready", func() (bool, string) { return strings.Contains(out.String(), "berth dev is ready\n"), out.String() })
	return s
}

// ask sends a request with the header of the other family of names.
func (s service) ask(method, path, body string, headers ...string) (int, map[string]any) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.address+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("X-Duckgres-Internal-Secret", "the-secret")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	answer := map[string]any{}
	if err := json.Unmarshal(text, &answer); err != nil {
		answer["text"] = string(text)
	}
	return response.StatusCode, answer
}

// becomes waits until the warehouse of org has the state.
func (s service) becomes(org, state string) map[string]any {
	s.t.Helper()
	var last map[string]any
	eventually(s.t, org+" to be "+state, func() (bool, string) {
		_, last = s.ask("GET", "/api/v1/orgs/"+org+"/warehouse/status", "")
		return last["state"] == state, fmt.Sprint(last)
	})
	return last
}

// On a machine without Crossplane the answer is 202, and the state says what is missing.
func TestDevServesREST(t *testing.T) {
	t.Parallel()
	s := serveDev(t, []string{"DUCKGRES_INTERNAL_SECRET=the-secret"})
	if status, answer := s.ask("GET", "/health", ""); status != 200 || answer["text"] != "ok" {
		t.Errorf("/health is %d %v", status, answer)
	}
	status, answer := s.ask("POST", "/api/v1/orgs/acme/provision", `{"metadata_store":{"type":"aurora","aurora":{"min_acu":0.5,"max_acu":2}}}`)
	if status != 202 || answer["status"] != "provisioning started" {
		t.Fatalf("provision is %d %v", status, answer)
	}
	if last := s.becomes("acme", "failed"); !strings.Contains(fmt.Sprint(last["status_message"]), "install its CompositeResourceDefinition") {
		t.Errorf("nobody says what is missing: %v", last)
	}
	if status, _ := s.ask("POST", "/api/v1/orgs/acme/deprovision", ""); status != 202 {
		t.Errorf("deprovision is %d", status)
	}
	s.becomes("acme", "deleted")
	if _, err := os.Stat(filepath.Join(s.data, "internal-secret")); !os.IsNotExist(err) {
		t.Errorf("a secret was made although there is one: %v", err)
	}
}

// TestAWarehouseOnOneMachine goes from an HTTP request to an object that a
// worker stored with the credentials it was handed, and back to nothing.
func TestAWarehouseOnOneMachine(t *testing.T) {
	t.Parallel()
	store := s3test.Start(t)
	s := serveDev(t, []string{"BERTH_INTERNAL_SECRET=the-secret", "AWS_ACCESS_KEY_ID=" + store.Root().AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + store.Root().SecretAccessKey},
		"--s3-endpoint", store.URL, "--worker", "default/worker")
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(s.data, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	api, err := newClient(config)
	if err != nil {
		t.Fatal(err)
	}
	token := tokenOf(t, api, "worker")
	activate := func(org string) (int, map[string]any) {
		return s.ask("POST", "/api/v1/orgs/"+org+"/activation", "", "Authorization: Bearer "+token)
	}
	for org, class := range map[string]string{"acme": "default", "umbrella": "default", "stuck": "absent"} {
		if status, answer := s.ask("POST", "/api/v1/orgs/"+org+"/provision", `{"metadata_store":{"type":"class","class":"`+class+`"}}`); status != 202 {
			t.Fatalf("provision is %d %v", status, answer)
		}
	}
	if status, answer := activate("stuck"); status != 503 || answer["sqlstate"] != "57P03" {
		t.Errorf("activation of one that is not ready is %d %v", status, answer["sqlstate"])
	}
	s.becomes("acme", "ready")
	s.becomes("umbrella", "ready")
	status, payload := activate("acme")
	lake, _ := payload["ducklake"].(map[string]any)
	if status != 200 || lake == nil {
		t.Fatalf("activation is %d %v", status, payload["error"])
	}
	if payload["usernames"].([]any)[0] != "root" || payload["refresh_after"] == nil || lake["object_store"] != "s3://berth-acme/" {
		t.Errorf("the payload of %v is not complete", payload["org_id"])
	}
	dsn, _ := strings.CutPrefix(fmt.Sprint(lake["metadata_store"]), "postgres:")
	conn, err := pgx.Connect(t.Context(), dsn+" sslmode=disable")
	if err != nil {
		t.Fatal("the metadata store does not take the login that was handed out")
	}
	if _, err := conn.Exec(t.Context(), "CREATE TABLE ducklake_metadata (k text)"); err != nil {
		t.Error(err)
	}
	_ = conn.Close(t.Context())

	keys := aws.Credentials{AccessKeyID: fmt.Sprint(lake["s3_access_key"]), SecretAccessKey: fmt.Sprint(lake["s3_secret_key"]), SessionToken: fmt.Sprint(lake["s3_session_token"])}
	if status := s3Status(t, keys, http.MethodPut, store.URL+"/berth-acme/part.parquet"); status != 200 {
		t.Errorf("storing into its bucket is %d", status)
	}
	if status := s3Status(t, keys, http.MethodPut, store.URL+"/berth-umbrella/part.parquet"); status != 403 {
		t.Errorf("storing into another org's bucket is %d", status)
	}

	s.ask("POST", "/api/v1/orgs/acme/deprovision", "")
	eventually(t, "the bucket to hold the deletion back", func() (bool, string) {
		_, last := s.ask("GET", "/api/v1/orgs/acme/warehouse/status", "")
		return last["state"] == "deleting" && strings.Contains(fmt.Sprint(last["status_message"]), "still holds objects"), fmt.Sprint(last)
	})
	if status := s3Status(t, keys, http.MethodDelete, store.URL+"/berth-acme/part.parquet"); status != 204 {
		t.Errorf("emptying the bucket is %d", status)
	}
	s.becomes("acme", "deleted")
	if status, answer := activate("acme"); status != 503 || answer["error"] != "warehouse is being deleted" {
		t.Errorf("activation of one that is deleted is %d %v", status, answer)
	}
}

// tokenOf is a token of a ServiceAccount, as a pod has it.
func tokenOf(t *testing.T, api client.Client, name string) string {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	if err := api.Create(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	request := &authentication.TokenRequest{Spec: authentication.TokenRequestSpec{Audiences: []string{berthrest.Audience}}}
	if err := api.SubResource("token").Create(t.Context(), account, request); err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}

func s3Status(t *testing.T, keys aws.Credentials, method, url string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	request.Header.Set("X-Amz-Content-Sha256", empty)
	if err := v4.NewSigner().SignHTTP(t.Context(), keys, request, empty, "s3", s3test.Region, time.Now()); err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

func TestAPISecrets(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		env  map[string]string
		want berthrest.Secrets
	}{
		"none":                    {nil, berthrest.Secrets{}},
		"ours":                    {map[string]string{"BERTH_INTERNAL_SECRET": "a"}, berthrest.Secrets{Internal: []string{"a"}}},
		"the other name":          {map[string]string{"DUCKGRES_INTERNAL_SECRET": "a"}, berthrest.Secrets{Internal: []string{"a"}}},
		"a rotation":              {map[string]string{"BERTH_INTERNAL_SECRET": "b", "BERTH_INTERNAL_SECRET_FALLBACKS": "a, ,z,"}, berthrest.Secrets{Internal: []string{"b", "a", "z"}}},
		"fallbacks of both names": {map[string]string{"DUCKGRES_INTERNAL_SECRET": "b", "DUCKGRES_INTERNAL_SECRET_FALLBACKS": "a", "BERTH_INTERNAL_SECRET_FALLBACKS": "c"}, berthrest.Secrets{Internal: []string{"b", "c", "a"}}},
		"one that may only read":  {map[string]string{"DUCKGRES_READ_ONLY_SECRET": "r"}, berthrest.Secrets{ReadOnly: "r"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, apiSecrets(func(name string) string { return tc.env[name] })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDevKeepsItsSecret(t *testing.T) {
	t.Setenv("BERTH_INTERNAL_SECRET", "")
	t.Setenv("DUCKGRES_INTERNAL_SECRET", "")
	data := t.TempDir()
	first, err := devSecrets(data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := devSecrets(data)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(data, "internal-secret"))
	if err != nil || info.Mode().Perm() != 0o600 || len(first.Internal) != 1 || len(first.Internal[0]) != 64 || !cmp.Equal(first, again) {
		t.Errorf("first %d, again %d secrets, in a file of mode %v: %v", len(first.Internal), len(again.Internal), info.Mode(), err)
	}
}
