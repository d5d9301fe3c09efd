package rest_test

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	worldkit "github.com/berth-dev/berth/internal/testkit/world"
)

func TestOrgs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	path := "/api/v1/orgs/" + id
	w.says(w.ask("POST", "/api/v1/orgs", `{}`), 400, `{"error":"name is required"}`)
	w.says(w.ask("GET", path, ""), 404, `{"error":"org not found"}`)
	w.says(w.ask("PUT", path, `{}`), 404, `{"error":"org not found"}`)
	w.says(w.ask("DELETE", path, ""), 404, `{"error":"org not found"}`)
	made := w.ask("POST", "/api/v1/orgs", `{"name":"`+id+`","max_workers":3,"memory_budget":"16GB","idle_timeout_s":60}`)
	at, _ := made.value(t, "created_at").(string)
	shown := `{"name":"` + id + `","database_name":"` + id + `","max_workers":3,"memory_budget":"16GB","idle_timeout_s":60,"users":[],"created_at":"` + at + `"}`
	w.says(made, 201, shown)
	w.says(w.ask("GET", path, ""), 200, shown)
	w.says(w.ask("POST", "/api/v1/orgs", `{"name":"`+id+`"}`), 409, `{"error":"org already exists"}`)
	if got := w.ask("POST", "/api/v1/orgs", `{"name":"Not an id"}`); got.Status != 400 {
		t.Errorf("a bad id is answered with %d", got.Status)
	}
	w.says(w.ask("PUT", path, `{"max_workers":5}`), 200, strings.NewReplacer(`workers":3`, `workers":5`, `"16GB"`, `""`, `"idle_timeout_s":60`, `"idle_timeout_s":0`).Replace(shown))
	if got := w.ask("PUT", path, `{"warehouse":{}}`); got.Status != 400 {
		t.Errorf("a warehouse in an org is answered with %d", got.Status)
	}

	w.ask("POST", path+"/provision", aurora)
	w.becomes(id, ready)
	if got := w.ask("DELETE", path, ""); got.Status != 409 || !strings.Contains(got.Text, "deprovision it first") {
		t.Errorf("deleting an org with its warehouse: %d %s", got.Status, got.Text)
	}
	w.ask("POST", path+"/deprovision", "")
	w.becomes(id, released)
	w.says(w.ask("DELETE", path, ""), 200, `{"deleted":"`+id+`"}`)
}

func TestUsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	path := "/api/v1/orgs/" + id + "/users/ann"
	user := `{"username":"ann","org_id":"` + id + `"}`
	create := func(body string) answer { return w.ask("POST", "/api/v1/users", body) }
	full := `{"username":"ann","org_id":"` + id + `","password":"correct horse"}`
	w.says(create(`{"username":"ann"}`), 400, `{"error":"username and org_id are required"}`)
	w.says(create(user), 400, `{"error":"password is required"}`)
	w.says(create(full), 404, `{"error":"org not found"}`)
	w.ask("POST", "/api/v1/orgs", `{"name":"`+id+`"}`)
	w.says(w.ask("GET", path, ""), 404, `{"error":"user not found"}`)
	w.says(create(full), 201, user)
	w.says(create(full), 409, `{"error":"user already exists"}`)
	w.says(w.ask("GET", path, ""), 200, user)
	w.says(w.ask("PUT", path, `{"password":"battery staple"}`), 200, user)
	if got := w.ask("PUT", path, `{"password":"`+strings.Repeat("x", 73)+`"}`); got.Status != 400 {
		t.Errorf("a password that bcrypt would cut is answered with %d", got.Status)
	}
	if !strings.Contains(w.ask("GET", "/api/v1/users", "").Text, user) {
		t.Error("the list of users lacks ann")
	}
	w.says(w.ask("DELETE", path, ""), 200, `{"deleted":"ann"}`)
	w.says(w.ask("DELETE", path, ""), 404, `{"error":"user not found"}`)
	w.says(w.ask("PUT", path, `{}`), 404, `{"error":"user not found"}`)
}

func TestDatabaseNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	name := "db-" + w.Namespace
	w.says(w.ask("GET", "/api/v1/database-name/check?name="+name, ""), 200, `{"name":"`+name+`","available":true}`)
	w.ask("POST", "/api/v1/orgs", `{"name":"`+w.id("acme")+`","database_name":"`+name+`"}`)
	w.says(w.ask("GET", "/api/v1/database-name/check?name="+name, ""), 200, `{"name":"`+name+`","available":false,"reason":"another org has it"}`)
	if got := w.ask("GET", "/api/v1/database-name/check?name=No+Name", ""); got.value(t, "available") != false {
		t.Errorf("a bad name is %s", got.Text)
	}
	got := w.ask("POST", "/api/v1/orgs/"+w.id("umbrella")+"/provision", `{"database_name":"`+name+`",`+aurora[1:])
	if got.Status != 409 || !strings.Contains(got.Text, "likely database_name in use") {
		t.Errorf("a name in use is answered with %d %s", got.Status, got.Text)
	}
	if err := w.Get(t.Context(), client.ObjectKey{Name: w.id("umbrella")}, &v1alpha1.Warehouse{}); !apierrors.IsNotFound(err) {
		t.Errorf("its warehouse was made: %v", err)
	}
}

func TestTheConfigurationOfAWarehouse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	path := "/api/v1/orgs/" + id + "/warehouse"
	w.says(w.ask("GET", path, ""), 404, `{"error":"managed warehouse not found"}`)
	w.says(w.ask("PUT", path, aurora), 404, `{"error":"org not found"}`)
	w.ask("POST", "/api/v1/orgs", `{"name":"`+id+`"}`)
	if got := w.ask("PUT", path, `{"state":"ready"}`); got.Status != 400 {
		t.Errorf("a state that is set by hand is answered with %d", got.Status)
	}
	if got := w.ask("PUT", path, aurora); got.Status != 200 || got.value(t, "aurora_max_acu") != 2.0 {
		t.Errorf("PUT: %d %s", got.Status, got.Text)
	}
	w.ask("PUT", path, strings.Replace(aurora, "2}", "8}", 1))
	w.becomes(id, func(o *v1alpha1.Warehouse) {
		ready(o)
		o.Status.MetadataStore = &v1alpha1.MetadataStoreStatus{Endpoint: "db.example.org", Port: 5432, Database: "d", Username: "u",
			Credential: &v1alpha1.SecretKeyReference{Namespace: w.Namespace, Name: id + "-metadata", Key: "password"}}
		o.Status.DataStore = &v1alpha1.DataStoreStatus{BucketName: "b", Region: "eu-central-1"}
	})
	got := w.ask("GET", path, "")
	for key, want := range map[string]string{
		"aurora_max_acu":             `8`,
		"s3":                         `{"bucket":"b","endpoint":"","path_prefix":"","provider":"aws","region":"eu-central-1","url_style":"path","use_ssl":true}`,
		"metadata_store":             `{"database_name":"d","endpoint":"db.example.org","engine":"postgres","kind":"aurora","port":5432,"username":"u"}`,
		"metadata_store_credentials": `{"key":"password","name":"` + id + `-metadata","namespace":"` + w.Namespace + `"}`,
	} {
		if text, _ := json.Marshal(got.value(t, key)); string(text) != want {
			t.Errorf("%s is %s, want %s", key, text, want)
		}
	}
}

func TestPaging(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var mine []string
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		mine = append(mine, w.id(name))
		w.ask("POST", "/api/v1/orgs", `{"name":"`+w.id(name)+`"}`)
	}
	var seen []string
	for path, pages := "/api/v1/orgs?limit=2", 0; path != "" && pages < 1000; pages++ {
		got := w.ask("GET", path, "")
		var part []struct{ Name string }
		if err := json.Unmarshal([]byte(got.Text), &part); err != nil || len(part) > 2 {
			t.Fatalf("a page of %d: %v", len(part), err)
		}
		for _, o := range part {
			if slices.Contains(mine, o.Name) {
				seen = append(seen, o.Name)
			}
		}
		if pages == 0 { // what is made or goes meanwhile moves nothing
			w.ask("POST", "/api/v1/orgs", `{"name":"`+w.id("aa")+`"}`)
		}
		path = ""
		if next := got.Header.Get("X-Continue"); next != "" {
			path = "/api/v1/orgs?limit=2&continue=" + next
		}
	}
	if !slices.Equal(seen, mine) {
		t.Errorf("the pages hold %v, want %v", seen, mine)
	}
}

func TestEventsTellEachChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	w.ask("POST", "/api/v1/orgs/"+id+"/provision", aurora)
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+"/api/v1/orgs/"+id+"/warehouse/events", nil)
	request.Header.Set("X-Duckgres-Internal-Secret", secret)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	next := func() string {
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				var s struct{ State string }
				if err := json.Unmarshal([]byte(data), &s); err != nil {
					t.Fatal(err)
				}
				return s.State
			}
		}
		return lines.Err().Error()
	}
	if got := next(); got != "pending" {
		t.Errorf("first it is %s", got)
	}
	w.becomes(id, provisioning)
	if got := next(); got != "provisioning" {
		t.Errorf("then it is %s", got)
	}
	w.becomes(id, ready)
	if got := next(); got != "ready" {
		t.Errorf("at last it is %s", got)
	}
}

func TestAnAPIServerThatIsAwayIsNoConflict(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) {
		away, err := client.New(&rest.Config{Host: "http://127.0.0.1:1"}, client.Options{Scheme: worldkit.Scheme(), Mapper: w.RESTMapper()})
		if err != nil {
			w.t.Fatal(err)
		}
		w.options.Live, w.options.Log = away, slog.New(slog.NewTextHandler(io.Discard, nil))
	})
	id := w.id("acme")
	for _, tc := range [][3]string{
		{"POST", "/api/v1/orgs/" + id + "/provision", aurora}, {"POST", "/api/v1/orgs/" + id + "/deprovision", ""},
		{"POST", "/api/v1/orgs/" + id + "/reset-password", ""}, {"GET", "/api/v1/orgs/" + id + "/warehouse/status", ""},
		{"POST", "/api/v1/orgs", `{"name":"` + id + `"}`}, {"DELETE", "/api/v1/orgs/" + id, ""},
		{"POST", "/api/v1/users", `{"username":"ann","org_id":"` + id + `","password":"x"}`}, {"PUT", "/api/v1/orgs/" + id + "/warehouse", aurora},
	} {
		got := w.ask(tc[0], tc[1], tc[2])
		if got.Status != 503 || got.Header.Get("Retry-After") == "" || got.Text != `{"error":"the API server cannot be reached now"}` {
			t.Errorf("%s %s is answered with %d %s", tc[0], tc[1], got.Status, got.Text)
		}
	}
}

func TestTheContractIsOpenAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	got := w.ask("GET", "/openapi.json", "")
	if got.Status != 200 || got.value(t, "openapi") != "3.1.0" {
		t.Fatalf("the contract is %d", got.Status)
	}
	paths, _ := got.value(t, "paths").(map[string]any)
	for _, path := range []string{
		"/api/v1/orgs/{id}/provision", "/api/v1/orgs/{id}/deprovision", "/api/v1/orgs/{id}/warehouse/status", "/api/v1/orgs/{id}/warehouse", "/api/v1/orgs/{id}/reset-password",
		"/api/v1/database-name/check", "/api/v1/orgs", "/api/v1/orgs/{id}", "/api/v1/users", "/api/v1/orgs/{id}/users/{username}", "/api/v1/ducklings/drift",
		"/api/v1/operations/{operation}", "/api/v1/orgs/{id}/warehouse/events", "/api/v1/orgs/{id}/activation",
	} {
		if paths[path] == nil {
			t.Errorf("the contract lacks %s", path)
		}
	}
	page := w.ask("GET", "/docs", "")
	if page.Status != 200 || !strings.Contains(page.Text, "metadata_store.aurora.max_acu") || strings.Contains(page.Text, "http") {
		t.Errorf("the page of it is %d, or leads elsewhere", page.Status)
	}
}
