package dsnexec_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/agent/dsnexec"
	"github.com/berth-dev/berth/internal/testkit"
)

// Every password of these tests holds it, so that one search finds a leak.
const poison = `hunt'er"2 %!\`

// mounted is a folder that changes as the kubelet changes a Secret volume.
type mounted struct {
	dir     string
	version int
}

func mount(t *testing.T, files map[string]string) *mounted {
	t.Helper()
	m := &mounted{dir: t.TempDir()}
	m.set(t, files)
	return m
}

func (m *mounted) file(name string) string { return filepath.Join(m.dir, name) }

// set shows other files, all of them at the same moment.
func (m *mounted) set(t *testing.T, files map[string]string) {
	t.Helper()
	m.version++
	version := fmt.Sprintf("..v%d", m.version)
	must(t, os.Mkdir(m.file(version), 0o755))
	for name, content := range files {
		must(t, os.WriteFile(filepath.Join(m.file(version), name), []byte(content), 0o600))
		if _, err := os.Lstat(m.file(name)); err != nil {
			must(t, os.Symlink("..data/"+name, m.file(name)))
		}
	}
	must(t, os.Symlink(version, m.file("..next")))
	must(t, os.Rename(m.file("..next"), m.file("..data")))
	must(t, os.RemoveAll(m.file(fmt.Sprintf("..v%d", m.version-1))))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// log is what a runner has said so far.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// running is a dsnexec of this process.
type running struct {
	log     *log
	address string
	stop    func() error // ends it and returns what Run returned
}

func start(t *testing.T, configFile string) *running {
	t.Helper()
	listener, err := dsnexec.Listen("127.0.0.1:0")
	must(t, err)
	r := &running{log: &log{}, address: "http://" + listener.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- dsnexec.Run(ctx, dsnexec.Options{
			ConfigFile: configFile, Interval: 20 * time.Millisecond, Listener: listener,
			Log: slog.New(slog.NewTextHandler(r.log, nil)),
		})
	}()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		r.shows(t)
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// shows fails the test when anything that can be seen of r holds a password.
func (r *running) shows(t *testing.T) {
	t.Helper()
	for _, seen := range []string{r.log.String(), r.get(t, "/healthz"), r.get(t, "/metrics")} {
		if strings.Contains(seen, "hunt") || strings.Contains(seen, "er%222") {
			t.Errorf("a password is shown: %s", seen)
		}
	}
}

func (r *running) get(t *testing.T, path string) string {
	t.Helper()
	response, err := http.Get(r.address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s answers %s: %v", path, response.Status, err)
	}
	return string(body)
}

// says waits until /healthz or /metrics has a line that begins so.
func (r *running) says(t *testing.T, path, line string) {
	t.Helper()
	eventually(t, line, func() (bool, string) {
		got := r.get(t, path)
		return strings.Contains("\n"+got, "\n"+line), got
	})
}

func eventually(t *testing.T, what string, holds func() (bool, string)) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		ok, last := holds()
		if ok {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waiting for %s: %s", what, last)
		case <-tick.C:
		}
	}
}

// tenant is a database with an owner who logs in by two names, as berth makes it.
type tenant struct {
	server *testkit.PostgresServer
	name   string
}

func newTenant(t *testing.T) tenant {
	t.Helper()
	server := testkit.Postgres(t, 15)
	v := tenant{server, server.NewDatabaseName(t)}
	owner := pgx.Identifier{v.name}.Sanitize()
	server.Exec(t, "", "CREATE ROLE "+owner+" CREATEDB")
	server.Exec(t, "", "CREATE DATABASE "+owner+" OWNER "+owner)
	for _, login := range []string{v.name + "_a", v.name + "_b"} {
		quoted := pgx.Identifier{login}.Sanitize()
		server.Exec(t, "", fmt.Sprintf("CREATE ROLE %s LOGIN IN ROLE %s PASSWORD '%s'", quoted, owner, strings.ReplaceAll(poison, "'", "''")+login))
		server.Exec(t, "", fmt.Sprintf("ALTER ROLE %s SET ROLE %s", quoted, owner))
	}
	return v
}

// uri is the DSN of login a or b.
func (v tenant) uri(login string) string {
	to := v.server.Target()
	to.Database, to.User, to.Password = v.name, v.name+"_"+login, poison+v.name+"_"+login
	return to.URI()
}

func (v tenant) rows(t *testing.T, query string) string {
	t.Helper()
	return strings.Join(v.server.Query(t, v.name, query), ",")
}

// holds waits until query of the superuser gives want.
func (v tenant) holds(t *testing.T, query, want string) {
	t.Helper()
	eventually(t, query, func() (bool, string) {
		got := v.rows(t, query)
		return got == want, got
	})
}
