package rest

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits of what one client may ask. A client is its credential and address.
type Limits struct {
	Requests rate.Limit // a second; 0 is 2000
	Failures rate.Limit // wrong credentials a second, of one address; 0 is 2
}

const (
	bodyLimit = 64 << 10
	burst     = 2 // seconds' worth that may come at once
	clients   = 10_000
)

// limiter keeps a bucket for each client, and forgets all when there are too many.
type limiter struct {
	rate    rate.Limit
	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

func newLimiter(r, otherwise rate.Limit) *limiter {
	if r == 0 {
		r = otherwise
	}
	return &limiter{rate: r, buckets: map[string]*rate.Limiter{}}
}

func (l *limiter) bucket(client string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[client]
	if b == nil {
		if len(l.buckets) >= clients {
			clear(l.buckets)
		}
		b = rate.NewLimiter(l.rate, max(1, int(l.rate*burst)))
		l.buckets[client] = b
	}
	return b
}

// door stands before all routes: it knows who asks, bounds what comes in, and
// writes down what is changed.
type door struct {
	secrets  Secrets
	now      func() time.Time
	log      *slog.Logger
	requests *limiter
	failures *limiter
	inside   http.Handler
}

var activations = regexp.MustCompile(`^/api/v1/orgs/[^/]+/activation$`)

// open are the paths that need no credential; the activation has its own.
func open(path string) bool {
	switch path {
	case "/health", "/healthz", "/readyz", "/api/v1/health", "/login", "/style.css":
		return true
	}
	return activations.MatchString(path)
}

// subject is what a mutation turned out to be about, for its audit line.
type subject struct{ org string }

type subjectKey struct{}

// about notes the org that a body named.
func about(ctx context.Context, org string) {
	if s, ok := ctx.Value(subjectKey{}).(*subject); ok {
		s.org = org
	}
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range map[string]string{
		"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin", "Cache-Control": "no-store",
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
	} {
		w.Header().Set(name, value)
	}
	address, _, _ := net.SplitHostPort(r.RemoteAddr)
	g, _ := d.secrets.presented(r, d.now())
	if refusal := d.refuse(r, g, address); refusal != nil {
		if refusal.status == http.StatusUnauthorized && wantsPage(r) {
			http.Redirect(w, r, "/login?next="+escape(r.URL.RequestURI()), http.StatusSeeOther)
			return
		}
		answer(w, refusal)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, bodyLimit)
	if safe(r.Method) {
		d.inside.ServeHTTP(w, r)
		return
	}
	d.audit(w, r, g, address)
}

func (d *door) refuse(r *http.Request, g grant, address string) *problem {
	if g == nobody && !open(r.URL.Path) {
		if !d.failures.bucket(address).Allow() {
			return &problem{status: http.StatusTooManyRequests, Message: "too many wrong credentials", after: 1}
		}
		return &problem{status: http.StatusUnauthorized, Message: "missing or invalid admin token"}
	}
	if !d.requests.bucket(string(g) + address).Allow() {
		return &problem{status: http.StatusTooManyRequests, Message: "too many requests", after: 1}
	}
	if g == reader && !safe(r.Method) && !open(r.URL.Path) && r.URL.Path != "/logout" {
		return &problem{status: http.StatusForbidden, Message: "this credential may only read"}
	}
	if r.ContentLength > bodyLimit {
		return &problem{status: http.StatusRequestEntityTooLarge, Message: "a body may have " + strconv.Itoa(bodyLimit) + " bytes"}
	}
	return nil
}

func safe(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// audit writes a line for a Mutation, once its result is known. It never shows
// a body, a query or a credential.
func (d *door) audit(w http.ResponseWriter, r *http.Request, g grant, address string) {
	began := d.now()
	recorded := &recorder{ResponseWriter: w, status: http.StatusOK}
	on := &subject{}
	d.inside.ServeHTTP(recorded, r.WithContext(context.WithValue(r.Context(), subjectKey{}, on)))
	d.log.Info("audit", "method", r.Method, "path", r.URL.Path, "org", on.org, "by", string(g), "from", address,
		"status", recorded.status, "dry_run", r.URL.Query().Get("dryRun") == "true", "took", d.now().Sub(began))
}

type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status on its way out.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets deadlines and flushes through.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// answer writes a problem outside of any route.
func answer(w http.ResponseWriter, p *problem) {
	for name, values := range p.GetHeaders() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(p.status)
	_ = json.NewEncoder(w).Encode(p) // who asked may be gone
}
