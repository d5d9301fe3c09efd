package rest_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
	clocktest "k8s.io/utils/clock/testing"

	"github.com/berth-dev/berth/rest"
)

func TestWhoMayAsk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	const own, foreign = "X-Berth-Internal-Secret: ", "X-Duckgres-Internal-Secret: "
	for name, tc := range map[string]struct {
		method  string
		headers []string
		status  int
	}{
		"the secret":                           {"GET", []string{own + secret}, 200},
		"the secret in the other header":       {"GET", []string{own, foreign + secret}, 200},
		"the secret before":                    {"GET", []string{own + previous}, 200},
		"nothing":                              {"GET", []string{own}, 401},
		"a wrong secret":                       {"GET", []string{own + "wrong"}, 401},
		"a bearer token":                       {"GET", []string{own, "Authorization: Bearer " + secret}, 401},
		"a wrong header beside a right cookie": {"GET", []string{own + "wrong", "Cookie: duckgres_admin_token=" + secret}, 401},
		"a right cookie of the other name":     {"GET", []string{own, "Cookie: duckgres_admin_token=" + secret}, 200},
		"a wrong cookie":                       {"GET", []string{own, "Cookie: duckgres_admin_token=wrong"}, 401},
		"the secret as our cookie":             {"GET", []string{own, "Cookie: berth_admin_token=" + secret}, 401},
		"the secret in the URL":                {"GET", []string{own}, 401},
		"the read-only secret reads":           {"GET", []string{own + readOnly}, 200},
		"the read-only secret changes nothing": {"POST", []string{own + readOnly}, 403},
		"a page of another site": {"POST", []string{own, "Cookie: duckgres_admin_token=" + secret,
			"Sec-Fetch-Site: cross-site", "Origin: https://evil.example.org"}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := ""
			if tc.method == "POST" {
				body = `{"name":"` + w.id("acme") + `"}`
			}
			got := w.ask(tc.method, "/api/v1/orgs?token="+secret, body, tc.headers...)
			if got.Status != tc.status {
				t.Errorf("the answer is %d %s, want %d", got.Status, got.Text, tc.status)
			}
			if tc.status == 401 && got.Text != `{"error":"missing or invalid admin token"}` {
				t.Errorf("the answer is %s", got.Text)
			}
		})
	}
	if got := w.ask("DELETE", "/api/v1/orgs/"+w.id("acme")+"/users/activation", "", own); got.Status != 401 {
		t.Errorf("a user called activation is open to everybody: %d", got.Status)
	}
	for _, path := range []string{"/health", "/api/v1/health", "/healthz", "/readyz"} {
		w.says(w.ask("GET", path, "", own), 200, "ok")
	}
}

func TestAnEmptySecretAcceptsNothing(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]rest.Secrets{
		"none at all":             {},
		"an empty one alone":      {Internal: []string{""}},
		"one that may also write": {Internal: []string{"a", "b"}, ReadOnly: "b"},
	} {
		if s.Check() == nil {
			t.Errorf("%s is taken", name)
		}
	}
	w := newWorld(t, func(w *world) { w.options.Secrets = rest.Secrets{Internal: []string{"", secret}} })
	for _, headers := range [][]string{{"X-Berth-Internal-Secret: "}, {"X-Berth-Internal-Secret: ", "Cookie: duckgres_admin_token="}} {
		if got := w.ask("GET", "/api/v1/orgs", "", headers...); got.Status != 401 {
			t.Errorf("nothing is accepted as a secret: %d", got.Status)
		}
	}
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, w.URL+"/api/v1/orgs", nil)
	request.Header["X-Berth-Internal-Secret"] = []string{""}
	response, err := http.DefaultClient.Do(request)
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		t.Fatalf("an empty header: %v %v", response, err)
	}
	response.Body.Close()
}

func TestLogin(t *testing.T) {
	t.Parallel()
	clock := clocktest.NewFakePassiveClock(time.Now())
	w := newWorld(t, func(w *world) { w.options.Clock = clock })
	const none, form = "X-Berth-Internal-Secret: ", "Content-Type: application/x-www-form-urlencoded"
	login := func(token, next string) answer {
		return w.ask("POST", "/login", url.Values{"token": {token}, "next": {next}}.Encode(), none, form)
	}
	if got := login("wrong", "/"); got.Status != 401 || !strings.Contains(got.Text, "Invalid admin token") {
		t.Errorf("a wrong token is answered with %d", got.Status)
	}
	got := login(secret, "/orgs/acme?x=1")
	cookie := got.Header.Get("Set-Cookie")
	if got.Status != 303 || got.Header.Get("Location") != "/orgs/acme?x=1" || strings.Contains(cookie, secret) {
		t.Fatalf("logging in: %d to %s with %s", got.Status, got.Header.Get("Location"), cookie)
	}
	for _, attribute := range []string{"HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=604800"} {
		if !strings.Contains(cookie, attribute) {
			t.Errorf("the cookie lacks %s: %s", attribute, cookie)
		}
	}
	for _, next := range []string{"//evil.example.org", "/\\evil.example.org", "https://evil.example.org", "/\t/evil.example.org", "evil", "///evil.example.org", ""} {
		if to := login(secret, next).Header.Get("Location"); to != "/" {
			t.Errorf("next %q leads to %s", next, to)
		}
	}
	value, _, _ := strings.Cut(cookie, ";")
	ask := func(cookie string) int { return w.ask("GET", "/api/v1/orgs", "", none, "Cookie: "+cookie).Status }
	if ask(value) != 200 || ask(value+"x") != 401 {
		t.Errorf("the session gives %d, one that was changed %d", ask(value), ask(value+"x"))
	}
	if page := w.ask("GET", "/", "", none, "Accept: text/html"); page.Status != 303 || page.Header.Get("Location") != "/login?next=%2F" {
		t.Errorf("a person without a session: %d to %s", page.Status, page.Header.Get("Location"))
	}
	reading, _, _ := strings.Cut(login(readOnly, "/").Header.Get("Set-Cookie"), ";")
	if got := w.ask("POST", "/api/v1/orgs", `{"name":"`+w.id("x")+`"}`, none, "Cookie: "+reading); ask(reading) != 200 || got.Status != 403 {
		t.Errorf("a read-only session writes: %d", got.Status)
	}
	clock.SetTime(clock.Now().Add(8 * 24 * time.Hour))
	if ask(value) != 401 {
		t.Error("a session does not end")
	}
}

func TestASessionEndsWithItsSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	other := newWorld(t, func(w *world) { w.options.Secrets.Internal = []string{"the-next-secret"} })
	got := w.ask("POST", "/login", url.Values{"token": {secret}}.Encode(), "Content-Type: application/x-www-form-urlencoded")
	value, _, _ := strings.Cut(got.Header.Get("Set-Cookie"), ";")
	if status := other.ask("GET", "/api/v1/orgs", "", "X-Berth-Internal-Secret: ", "Cookie: "+value).Status; status != 401 {
		t.Errorf("a session of a secret that is gone gives %d", status)
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.options.Limits = rest.Limits{Failures: 1, Requests: rate.Limit(5)} })
	count := func(header string) (refused int) {
		for range 20 {
			if got := w.ask("GET", "/api/v1/orgs", "", header); got.Status == 429 {
				refused++
				if got.Header.Get("Retry-After") == "" {
					t.Error("nobody says when to come back")
				}
			}
		}
		return refused
	}
	if n := count("X-Berth-Internal-Secret: wrong"); n < 15 {
		t.Errorf("%d of 20 wrong credentials were turned away", n)
	}
	if n := count("X-Berth-Internal-Secret: " + secret); n < 5 || n > 15 {
		t.Errorf("%d of 20 requests were turned away", n)
	}
}

func TestEachMutationIsWrittenDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	w.ask("POST", "/api/v1/orgs/"+id+"/provision?dryRun=true", aurora)
	w.ask("POST", "/api/v1/orgs", `{"name":"`+id+`"}`)
	w.ask("POST", "/api/v1/users", `{"username":"ann","org_id":"`+id+`","password":"correct horse"}`)
	w.ask("GET", "/api/v1/orgs", "")
	for _, line := range []string{
		"msg=audit method=POST path=/api/v1/orgs/" + id + `/provision org="" by=internal from=127.0.0.1 status=202 dry_run=true`,
		"msg=audit method=POST path=/api/v1/orgs org=" + id + " by=internal from=127.0.0.1 status=201 dry_run=false",
		"msg=audit method=POST path=/api/v1/users org=" + id + " by=internal from=127.0.0.1 status=201 dry_run=false",
	} {
		if !strings.Contains(w.Log.String(), line) {
			t.Errorf("the log lacks %q:\n%s", line, w.Log)
		}
	}
	if text := w.Log.String(); strings.Contains(text, "correct horse") || strings.Contains(text, secret) || strings.Contains(text, "method=GET") {
		t.Errorf("the log shows too much:\n%s", text)
	}
}
