package rest_test

import (
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/bcrypt"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestProvisionRecordsIntent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	got := w.ask("POST", "/api/v1/orgs/"+id+"/provision", aurora)
	password, _ := got.value(t, "password").(string)
	w.says(got, 202, `{"status":"provisioning started","org":"`+id+`","operation":"`+id+`.provision.1","username":"root","password":"`+password+`"}`)
	if len(password) != 43 {
		t.Errorf("the password has %d characters", len(password))
	}
	o := &v1alpha1.Warehouse{}
	if err := w.Get(t.Context(), client.ObjectKey{Name: id}, o); err != nil {
		t.Fatal(err)
	}
	if a := o.Spec.MetadataStore.Aurora; a == nil || a.MinACU != "0.5" || a.MaxACU != "2" || o.Spec.Provider != "duckling" {
		t.Errorf("the spec is %+v", o.Spec)
	}
	hashes := &corev1.Secret{}
	if err := w.Get(t.Context(), client.ObjectKey{Namespace: w.Namespace, Name: "org-" + id + "-users"}, hashes); err != nil {
		t.Fatal(err)
	}
	if bcrypt.CompareHashAndPassword(hashes.Data["root"], []byte(password)) != nil {
		t.Error("the Secret does not hold the hash of the password")
	}
	w.says(w.ask("GET", "/api/v1/orgs/"+id+"/warehouse/status", ""), 200, `{"org_id":"`+id+`","state":"pending","status_message":"",
		"s3_state":"pending","metadata_store_state":"pending","identity_state":"pending","secrets_state":"pending"}`)
	if strings.Contains(w.Log.String(), password) {
		t.Error("the log shows the password")
	}
}

func TestProvisionRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	needs := `{"error":"metadata_store.aurora.max_acu must be greater than 0"}`
	for name, tc := range map[string]struct {
		path, body string
		status     int
		want       string // a part of the body, or the whole when it is JSON
	}{
		"no body":                       {"", "", 400, "request body is required"},
		"no JSON":                       {"", "{", 400, "unexpected end of JSON input"},
		"no metadata store":             {"", "{}", 400, needs},
		"no aurora":                     {"", `{"metadata_store":{"type":"aurora"}}`, 400, needs},
		"no capacity":                   {"", `{"metadata_store":{"type":"aurora","aurora":{"min_acu":1,"max_acu":0}}}`, 400, needs},
		"negative capacity":             {"", `{"metadata_store":{"aurora":{"max_acu":-1}}}`, 400, needs},
		"more at least than at most":    {"", `{"metadata_store":{"aurora":{"min_acu":3,"max_acu":2}}}`, 400, "min_acu must be between"},
		"a type that does not exist":    {"", `{"metadata_store":{"type":"sqlite"}}`, 400, "spec.metadataStore.type"},
		"a field that does not exist":   {"", `{"image":"x","metadata_store":{"aurora":{"max_acu":2}}}`, 400, "image"},
		"a capacity that is a text":     {"", `{"metadata_store":{"aurora":{"max_acu":"2"}}}`, 400, "max_acu"},
		"an id with a dot":              {"/api/v1/orgs/a.b/provision", aurora, 400, "path.id"},
		"an id in upper case":           {"/api/v1/orgs/ACME/provision", aurora, 400, "path.id"},
		"an id that is too long":        {"/api/v1/orgs/" + strings.Repeat("a", 36) + "/provision", aurora, 400, "path.id"},
		"a bad database name":           {"", `{"database_name":"No Name","metadata_store":{"aurora":{"max_acu":2}}}`, 400, "spec.databaseName"},
		"external without its endpoint": {"", `{"metadata_store":{"type":"external"}}`, 400, "spec.metadataStore.external"},
	} {
		t.Run(name, func(t *testing.T) {
			path := tc.path
			if path == "" {
				path = "/api/v1/orgs/" + w.id("x") + "/provision"
			}
			got := w.ask("POST", path, tc.body)
			if got.Status != tc.status || !strings.Contains(got.Text, tc.want) || !strings.HasPrefix(got.Text, `{"error":`) {
				t.Errorf("the answer is %d %s, want %d with %s", got.Status, got.Text, tc.status, tc.want)
			}
		})
	}
	if got := w.ask("GET", "/api/v1/orgs/"+w.id("x")+"/warehouse/status", ""); got.Status != 404 {
		t.Errorf("a refused provisioning left a warehouse: %s", got.Text)
	}
	if got := w.ask("POST", "/api/v1/orgs/"+w.id("x")+"/provision", aurora, "Content-Type: text/csv"); got.Status != 415 {
		t.Errorf("CSV is answered with %d", got.Status)
	}
	if got := w.ask("POST", "/api/v1/orgs/"+w.id("x")+"/provision", `{"x":"`+strings.Repeat("x", 10<<20)+`"}`); got.Status != 413 {
		t.Errorf("10 MB are answered with %d", got.Status)
	}
}

// TestLifecycle walks every state that a provision and a deprovision can meet.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	provision := func() answer { return w.ask("POST", "/api/v1/orgs/"+id+"/provision", aurora) }
	deprovision := func() answer { return w.ask("POST", "/api/v1/orgs/"+id+"/deprovision", "") }
	const (
		nonTerminal = `{"error":"warehouse already exists in non-terminal state"}`
		wrongState  = `{"error":"warehouse must be in ready, failed, or provisioning state to deprovision"}`
		none        = `{"error":"warehouse not found"}`
	)
	w.says(deprovision(), 404, none)
	w.says(w.ask("GET", "/api/v1/orgs/"+id+"/warehouse/status", ""), 404, none)
	if got := provision(); got.Status != 202 {
		t.Fatalf("provision: %d %s", got.Status, got.Text)
	}
	w.says(provision(), 409, nonTerminal)
	w.says(deprovision(), 409, wrongState) // from pending
	w.becomes(id, provisioning)
	w.says(provision(), 409, nonTerminal)
	w.becomes(id, ready)
	w.says(provision(), 409, nonTerminal)
	w.becomes(id, failed)
	if got := provision(); got.Status != 202 || got.value(t, "operation") != id+".provision.2" {
		t.Fatalf("provision from failed: %d %s", got.Status, got.Text)
	}
	if got := w.ask("GET", "/api/v1/orgs/"+id+"/warehouse/status", ""); got.value(t, "state") != "pending" || got.value(t, "failed_at") != nil {
		t.Errorf("a fresh attempt is %s", got.Text)
	}
	for _, state := range []func(*v1alpha1.Warehouse){provisioning, failed, ready} {
		w.becomes(id, state)
		w.says(deprovision(), 202, `{"status":"deprovisioning started","org":"`+id+`","operation":"`+w.ask("GET", "/api/v1/orgs/"+id, "").value(t, "name").(string)+`.deprovision.`+attempt(t, w, id)+`"}`)
		w.says(deprovision(), 409, wrongState) // from deleting
		w.says(provision(), 409, nonTerminal)
		w.becomes(id, released)
		w.says(deprovision(), 409, wrongState) // from deleted
		if got := provision(); got.Status != 202 {
			t.Fatalf("provision from deleted: %d %s", got.Status, got.Text)
		}
	}
}

func attempt(t *testing.T, w *world, id string) string {
	t.Helper()
	o := &v1alpha1.Warehouse{}
	if err := w.Get(t.Context(), client.ObjectKey{Name: id}, o); err != nil {
		t.Fatal(err)
	}
	return string(rune('0' + o.Spec.Attempt))
}

func TestStatusOfAReadyWarehouseTellsTheConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	w.ask("POST", "/api/v1/orgs/"+id+"/provision", `{"database_name":"db-`+id+`",`+aurora[1:])
	w.becomes(id, ready)
	at := now.UTC().Format("2006-01-02T15:04:05Z")
	w.says(w.ask("GET", "/api/v1/orgs/"+id+"/warehouse/status", ""), 200, `{"org_id":"`+id+`","state":"ready","status_message":"",
		"s3_state":"provisioning","metadata_store_state":"provisioning","identity_state":"provisioning","secrets_state":"provisioning","ready_at":"`+at+`",
		"connection":{"host":"warehouse.example.org","port":5432,"database":"db-`+id+`","username":"root"}}`)
}

func TestTwoThatRaceToProvision(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	answers := make([]answer, 8)
	var work sync.WaitGroup
	for i := range answers {
		work.Go(func() { answers[i] = w.ask("POST", "/api/v1/orgs/"+id+"/provision", aurora) })
	}
	work.Wait()
	password := ""
	for _, a := range answers {
		switch a.Status {
		case 202:
			if password != "" {
				t.Error("two were told that they provisioned it")
			}
			password, _ = a.value(t, "password").(string)
		case 409:
		default:
			t.Errorf("one was told %d %s", a.Status, a.Text)
		}
	}
	hashes := &corev1.Secret{}
	if err := w.Get(t.Context(), client.ObjectKey{Namespace: w.Namespace, Name: "org-" + id + "-users"}, hashes); err != nil {
		t.Fatal(err)
	}
	if bcrypt.CompareHashAndPassword(hashes.Data["root"], []byte(password)) != nil {
		t.Error("the winner's password does not work")
	}
}

func TestARepeatedRequestIsCarriedOutOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	path := "/api/v1/orgs/" + id
	first := w.ask("POST", path+"/provision", aurora, "Idempotency-Key: one")
	again := w.ask("POST", path+"/provision", aurora, "Idempotency-Key: one")
	if first.Status != 202 || again.Status != 202 || again.Header.Get("Idempotency-Replayed") != "true" || again.value(t, "password") != nil {
		t.Errorf("first %d %s, again %d %s", first.Status, first.Text, again.Status, again.Text)
	}
	if other := w.ask("POST", path+"/provision", strings.Replace(aurora, "2}", "4}", 1), "Idempotency-Key: one"); other.Status != 422 {
		t.Errorf("the key with another body is answered with %d", other.Status)
	}
	w.becomes(id, ready)
	reset := w.ask("POST", path+"/reset-password", "", "Idempotency-Key: two")
	repeat := w.ask("POST", path+"/reset-password", "", "Idempotency-Key: two")
	fresh := w.ask("POST", path+"/reset-password", "", "Idempotency-Key: three")
	if reset.Status != 200 || reset.value(t, "password") == nil || repeat.Status != 200 || repeat.value(t, "password") != nil || fresh.value(t, "password") == nil {
		t.Errorf("reset %s, repeated %s, another %s", reset.Text, repeat.Text, fresh.Text)
	}
	one := w.ask("POST", path+"/deprovision", "", "Idempotency-Key: four")
	two := w.ask("POST", path+"/deprovision", "", "Idempotency-Key: four")
	if one.Status != 202 || two.Status != 202 || two.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("deprovision %d, again %d", one.Status, two.Status)
	}
}

func TestADryRunChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	if got := w.ask("POST", "/api/v1/orgs/"+id+"/provision?dryRun=true", aurora); got.Status != 202 || got.value(t, "password") != nil {
		t.Errorf("the answer is %d %s", got.Status, got.Text)
	}
	if got := w.ask("POST", "/api/v1/orgs/"+id+"/provision?dryRun=true", `{"metadata_store":{"type":"sqlite"}}`); got.Status != 400 {
		t.Errorf("a bad one is answered with %d", got.Status)
	}
	for _, o := range []client.Object{&v1alpha1.Org{}, &v1alpha1.Warehouse{}} {
		if err := w.Get(t.Context(), client.ObjectKey{Name: id}, o); client.IgnoreNotFound(err) != nil || err == nil {
			t.Errorf("a dry run made %T: %v", o, err)
		}
	}
}

func TestOperationsTellTheBlocker(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	w.ask("POST", "/api/v1/orgs/"+id+"/provision", aurora)
	w.becomes(id, func(o *v1alpha1.Warehouse) {
		provisioning(o)
		o.Status.Conditions = append(o.Status.Conditions, conditions("True", v1alpha1.Admitted, v1alpha1.Requested)...)
		o.Status.Conditions = append(o.Status.Conditions, conditions("False", v1alpha1.MetadataStoreReady, v1alpha1.Ready)...)
	})
	w.says(w.ask("GET", "/api/v1/operations/"+id+".provision.1", ""), 200,
		`{"id":"`+id+`.provision.1","org":"`+id+`","kind":"provision","done":false,"succeeded":false,"step":"MetadataStoreReady","percent":24,"blocker":"Bucket acme: AccessDenied"}`)
	w.becomes(id, ready)
	w.says(w.ask("GET", "/api/v1/operations/"+id+".provision.1", ""), 200,
		`{"id":"`+id+`.provision.1","org":"`+id+`","kind":"provision","done":true,"succeeded":true,"step":"MetadataStoreReady","percent":100}`)
	for _, unknown := range []string{id + ".provision.2", id + ".provision.0", id + ".paint.1", "nobody.provision.1", "x"} {
		w.says(w.ask("GET", "/api/v1/operations/"+unknown, ""), 404, `{"error":"operation not found"}`)
	}
}
