package rest

import (
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed pages
var pageFiles embed.FS

var templates = template.Must(template.New("").ParseFS(pageFiles, "pages/*.html"))

func escape(s string) string { return url.QueryEscape(s) }

// wantsPage tells a person's browser from a program.
func wantsPage(r *http.Request) bool {
	return r.Method == http.MethodGet && !strings.HasPrefix(r.URL.Path, prefix) && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// view is what a page's template is given.
type view struct {
	Title string
	Data  any
}

func show(w http.ResponseWriter, status int, page, title string, data any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_ = templates.ExecuteTemplate(w, page, view{title, data}) // who asked may be gone
}

func (a *API) pages(mux *http.ServeMux, spec *huma.OpenAPI) {
	for _, path := range []string{"/health", "/healthz", "/readyz", prefix + "/health"} {
		mux.HandleFunc("GET "+path, a.health)
	}
	for path, file := range map[string]string{"/style.css": "pages/style.css", "/live.js": "pages/live.js"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, pageFiles, file) })
	}
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		show(w, http.StatusOK, "login.html", "Log in", map[string]string{"Next": localPath(r.URL.Query().Get("next"))})
	})
	mux.HandleFunc("POST /login", a.logIn)
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		setCookie(w, r, "", -1)
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	})
	mux.HandleFunc("GET /docs", func(w http.ResponseWriter, _ *http.Request) {
		show(w, http.StatusOK, "docs.html", "REST", describe(spec))
	})
	mux.HandleFunc("GET /{$}", a.dashboard)
	mux.HandleFunc("GET /orgs/{id}", a.dashboardOrg)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if wantsPage(r) {
			show(w, http.StatusNotFound, "missing.html", "Not found", nil)
			return
		}
		answer(w, &problem{status: http.StatusNotFound, Message: "there is nothing at this path"})
	})
}

// health is well once the caches are there; New returned then.
func (*API) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprint(w, "ok")
}

func (a *API) logIn(w http.ResponseWriter, r *http.Request) {
	next := localPath(r.PostFormValue("next"))
	g := a.Secrets.of(r.PostFormValue("token"))
	if g == nobody {
		show(w, http.StatusUnauthorized, "login.html", "Log in", map[string]string{"Next": next, "Error": "Invalid admin token"})
		return
	}
	setCookie(w, r, a.Secrets.session(g, a.Clock.Now()), int(sessionLife.Seconds()))
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func setCookie(w http.ResponseWriter, r *http.Request, value string, life int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookie, Value: value, Path: "/", MaxAge: life, HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: r.TLS != nil,
	})
}

// localPath is path if it leads to this very host, else the first page.
func localPath(path string) string {
	u, err := url.Parse(path)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(path, "/") ||
		strings.HasPrefix(path, "//") || strings.ContainsAny(path, "\\\t\r\n") {
		return "/"
	}
	return path
}
