// Package broker hands out sessions for backups to the pods that restore them.
//
// A pod shows its ServiceAccount's token, made for this audience, and gets
// sessions for the group and type that its namespace is labelled with, and for
// no other. It keeps sessions in memory alone and logs none.
package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/berth-dev/berth/canopy"
)

// Audience is what a token must be made for.
const Audience = "berth-broker"

// early is how long before its expiry a session is no longer handed out.
const early = 120 * time.Second

const (
	bodyLimit  = 4 << 10 // bytes
	cacheLimit = 10_000  // sessions
)

// Scope is what a pod may ask for.
type Scope struct{ Group, Type string }

// ErrUnknown is in the chain when a token is not valid for Audience.
var ErrUnknown = errors.New("the token is not valid")

// Options say whom to ask.
type Options struct {
	Upstream func(ctx context.Context, group, kind, runID string) (canopy.Session, error) // nil: there is none
	Identify func(ctx context.Context, token string) (Scope, error)
	Now      func() time.Time
	Log      *slog.Logger
}

// Broker answers over HTTP. It is safe for concurrent use.
type Broker struct {
	options Options
	flight  singleflight.Group

	mu   sync.Mutex
	held map[request]canopy.Session
}

type request struct {
	Group string `json:"group"`
	Type  string `json:"type"`
	RunID string `json:"run_id,omitempty"`
}

// New is a broker without sessions.
func New(o Options) *Broker {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Broker{options: o, held: map[request]canopy.Session{}}
}

// Handler serves POST /internal/restore-creds and GET /healthz.
func (b *Broker) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /internal/restore-creds", b.credentials)
	return mux
}

func (b *Broker) credentials(w http.ResponseWriter, r *http.Request) {
	asked, err := b.admit(r)
	if err == nil {
		var session canopy.Session
		if session, err = b.session(r.Context(), asked); err == nil {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Cache-Control", "no-store")
			_ = json.NewEncoder(w).Encode(session) // who asked is gone
			return
		}
	}
	status, text := explain(err)
	b.options.Log.Warn("no session", "group", asked.Group, "type", asked.Type, "status", status, "problem", err.Error())
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text})
}

// refusal is an answer of the broker's own.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// admit finds out who asks before it looks at what is asked.
func (b *Broker) admit(r *http.Request) (request, error) {
	var asked request
	token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !found || token == "" {
		return asked, &refusal{http.StatusUnauthorized, "a ServiceAccount token for audience " + Audience + " is needed"}
	}
	scope, err := b.options.Identify(r.Context(), token)
	if err != nil {
		return asked, err
	}
	decoder := json.NewDecoder(io.LimitReader(r.Body, bodyLimit))
	if err := decoder.Decode(&asked); err != nil || asked.Group == "" || asked.Type == "" || len(asked.RunID) > 64 {
		return request{}, &refusal{http.StatusBadRequest, `the body must be {"group": …, "type": …}`}
	}
	if scope != (Scope{asked.Group, asked.Type}) {
		return asked, &refusal{http.StatusForbidden, "this namespace is not of that group and type"}
	}
	return asked, nil
}

// session gives one that is good for longer than early. Any number of callers
// cause one question upstream; a failure is told to those who wait, and then
// forgotten.
func (b *Broker) session(ctx context.Context, asked request) (canopy.Session, error) {
	if b.options.Upstream == nil {
		return canopy.Session{}, &refusal{http.StatusServiceUnavailable, "canopy client not configured on operator"}
	}
	if s, found := b.cached(asked); found {
		return s, nil
	}
	shared := context.WithoutCancel(ctx) // it outlives the caller that began it
	done := b.flight.DoChan(asked.Group+"\x00"+asked.Type+"\x00"+asked.RunID, func() (any, error) {
		if s, found := b.cached(asked); found {
			return s, nil
		}
		s, err := b.options.Upstream(shared, asked.Group, asked.Type, asked.RunID)
		if err != nil {
			return nil, err
		}
		b.keep(asked, s)
		return s, nil
	})
	select {
	case <-ctx.Done():
		return canopy.Session{}, ctx.Err()
	case r := <-done:
		s, _ := r.Val.(canopy.Session)
		return s, r.Err
	}
}

func (b *Broker) cached(asked request) (canopy.Session, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, found := b.held[asked]
	return s, found && s.Credentials.Expiration.After(b.options.Now().Add(early))
}

func (b *Broker) keep(asked request, s canopy.Session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.held) >= cacheLimit {
		clear(b.held)
	}
	for old, held := range b.held {
		if !held.Credentials.Expiration.After(b.options.Now()) {
			delete(b.held, old)
		}
	}
	b.held[asked] = s
}

// explain mirrors what the service answered, so that a missing declaration
// (403) is not taken for an outage.
func explain(err error) (status int, text string) {
	var own *refusal
	var upstream *canopy.Refusal
	switch {
	case errors.As(err, &own):
		return own.status, own.text
	case errors.Is(err, ErrUnknown):
		return http.StatusUnauthorized, ErrUnknown.Error()
	case errors.As(err, &upstream) && upstream.Status >= 400 && upstream.Status < 500:
		return upstream.Status, upstream.Reason
	case errors.As(err, &upstream):
		return http.StatusBadGateway, upstream.Reason
	}
	return http.StatusBadGateway, fmt.Sprintf("no answer: %v", err)
}
