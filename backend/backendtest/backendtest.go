// Package backendtest is the suite that every backend passes. It looks at
// servers through the seam and through SQL, never into a backend.
package backendtest

import (
	"context"
	"regexp"
	"testing"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/postgres"
)

// Fixture is a fresh backend with servers for one test.
type Fixture struct {
	Backend backend.Backend
	// One and Two become usable once they were applied; they are different servers.
	One, Two backend.Server
	// Missing is not there, and nothing in the test makes it.
	Missing backend.Server
	// Makes says that the backend makes and deletes servers, as all do but those
	// that only find them.
	Makes bool
	// Deadline is how long a server may take to become usable or to go; zero is a minute.
	Deadline time.Duration
}

// prompt is how long a verb may take that does not wait for a server.
const prompt = 100 * time.Millisecond

// Run tests the backend that make gives, a fresh one each time.
func Run(t *testing.T, make func(t *testing.T) Fixture) {
	t.Helper()
	for name, story := range map[string]func(*testing.T, Fixture){
		"an absent server is no error and says why it is not usable": absent,
		"a server becomes usable and its administrator makes a role": usable,
		"applying twice is one server":                               twice,
		"every verb returns at once":                                 prompts,
		"deleting twice leaves nothing of a server that was made":    deletion,
		"deleting what is not there is success":                      deleteAbsent,
		"a list names what was made and nothing else":                list,
		"a change of a server is told":                               watch,
		"two servers do not see each other's databases":              apart,
		"no form of what was observed shows the password":            secrecy,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			story(t, make(t))
		})
	}
}

func (f Fixture) observe(t *testing.T, want backend.Server) backend.Observed {
	t.Helper()
	found, err := f.Backend.Observe(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if !found.Usable {
		checkFinding(t, found)
	}
	return found
}

var reason = regexp.MustCompile(`^[A-Z][A-Za-z]+$`)

// checkFinding asks of what goes into a condition that people can read it.
func checkFinding(t *testing.T, found backend.Observed) {
	t.Helper()
	if !reason.MatchString(found.Reason) {
		t.Fatalf("reason %q of a server that is not usable is not CamelCase", found.Reason)
	}
	if found.Message == "" || !unicode.IsUpper(rune(found.Message[0])) {
		t.Fatalf("message %q of a server that is not usable is no sentence", found.Message)
	}
}

// apply brings the server up and returns its administrator.
func (f Fixture) apply(t *testing.T, want backend.Server) postgres.Target {
	t.Helper()
	if err := f.Backend.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	var found backend.Observed
	f.until(t, "usable", func() bool {
		found = f.observe(t, want)
		if found.Permanent {
			t.Fatalf("server %s will never be usable: %s: %s", want.ID, found.Reason, found.Message)
		}
		return found.Usable
	})
	return found.Admin
}

func (f Fixture) list(t *testing.T) []string {
	t.Helper()
	names, err := f.Backend.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func (f Fixture) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := f.Deadline
	if deadline == 0 {
		deadline = time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("server is not %s after %s", what, deadline)
		case <-tick.C:
		}
	}
}

// within takes the best of a few tries, since a busy machine may hold up any one.
func within(t *testing.T, what string, verb func() error) {
	t.Helper()
	var took time.Duration
	for range 5 {
		started := time.Now()
		if err := verb(); err != nil {
			t.Fatal(err)
		}
		if took = time.Since(started); took < prompt {
			return
		}
	}
	t.Fatalf("%s took %s, and must never wait", what, took)
}

func connect(t *testing.T, target postgres.Target) *pgx.Conn {
	t.Helper()
	config, err := target.ConnConfig()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatalf("logging in to %s: %s", target, postgres.Explain(err).Message)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func hasRole(t *testing.T, conn *pgx.Conn, name string) bool {
	t.Helper()
	var has bool
	if err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`, name).Scan(&has); err != nil {
		t.Fatal(err)
	}
	return has
}
