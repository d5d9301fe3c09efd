package postgres

import (
	"sync"
	"time"
)

// Limits bound what one server is asked to bear. Zero fields take the default.
type Limits struct {
	Connections      int           // administrator's connections to the maintenance database; 8, and a quarter more that only read
	Concurrency      int           // connections into tenant databases at once; 8
	StatementTimeout time.Duration // 30 s
}

func (l Limits) withDefaults() Limits {
	if l.Connections <= 0 {
		l.Connections = 8
	}
	if l.Concurrency <= 0 {
		l.Concurrency = 8
	}
	if l.StatementTimeout <= 0 {
		l.StatementTimeout = 30 * time.Second
	}
	return l
}

// forgetAfter is how long an unused server is remembered.
const forgetAfter = 10 * time.Minute

// identity is a Target without its password.
type identity struct {
	host, user, database, sslMode, rootCA string
	port                                  uint16
}

type entry struct {
	server   *Server
	password string
	used     time.Time
}

// Servers keeps one bounded pool per administrator. It is safe for concurrent
// use.
type Servers struct {
	limits Limits

	mu      sync.Mutex
	closed  bool
	entries map[identity][]*entry
	swept   time.Time
}

// NewServers makes an empty registry.
func NewServers(limits Limits) *Servers {
	return &Servers{limits: limits.withDefaults(), entries: map[identity][]*entry{}, swept: time.Now()}
}

// Get returns the server behind t; it never blocks and never dials. A new
// password gets a pool of its own, and the idle connections of the old one are
// closed: so a stale or wrong password elsewhere harms nobody.
func (s *Servers) Get(t Target) *Server {
	id := identity{t.Host, t.User, t.Database, t.SSLMode, string(t.RootCA), t.Port}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.sweep(now)
	for _, e := range s.entries[id] {
		if e.password == t.Password {
			e.used = now
			return e.server
		}
	}
	for _, e := range s.entries[id] {
		e.server.closeIdle()
	}
	server := newServer(t, s.limits)
	if s.closed {
		server.close()
		return server
	}
	s.entries[id] = append(s.entries[id], &entry{server, t.Password, now})
	return server
}

func (s *Servers) sweep(now time.Time) {
	if now.Sub(s.swept) < forgetAfter {
		return
	}
	s.swept = now
	for id, entries := range s.entries {
		var kept []*entry
		for _, e := range entries {
			if now.Sub(e.used) < forgetAfter {
				kept = append(kept, e)
			} else {
				e.server.closeIdle()
			}
		}
		if s.entries[id] = kept; kept == nil {
			delete(s.entries, id)
		}
	}
}

// Close closes every pool. Work under way ends its own connections; later work
// fails.
func (s *Servers) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, entries := range s.entries {
		for _, e := range entries {
			e.server.close()
		}
	}
	clear(s.entries)
}
