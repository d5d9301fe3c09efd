package dbproxy_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
)

func TestWaitsForItsFirstCredential(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	a := c.launch(t)
	steps := []struct {
		name, reason string
		data         map[string]string
	}{
		{"an empty folder", "Missing", nil},
		{"half a URI", "Malformed", map[string]string{"uri_dsn.txt": "postgresql://x:y"}},
		{"a password that pgbouncer cannot be told", "Unwritable", map[string]string{"uri_dsn.txt": "postgresql://x:a%0Ab@h/d"}},
	}
	for _, s := range steps {
		c.show(t, s.data)
		eventually(t, s.name+" is counted", func() bool {
			return a.metric(`berth_dbproxy_credential_errors_total{reason="`+s.reason+`"}`) > 0
		})
		if code, why := a.get("/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(why, "credential") {
			t.Errorf("%s: healthz is %d %s", s.name, code, why)
		}
	}
	if a.login() != "" {
		t.Errorf("login = %q before there is one", a.login())
	}
	c.publish(t, c.open(t, "_a"))
	a.awaitReady(t)
	if got := a.ask(t, "SELECT current_user::text"); got != c.owner {
		t.Errorf("current_user = %s", got)
	}
}

func TestEndsWhileItWaits(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	a := c.launch(t)
	eventually(t, "it waits", func() bool { code, _ := a.get("/healthz"); return code != 0 })
	a.signal(t, syscall.SIGTERM)
	if code := a.exitCode(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// What is wrong with the Secret never reaches the clients.
func TestABrokenSecretChangesNothing(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	good := c.open(t, "_a")
	wrongPassword, noRole, noDatabase, noServer := good, good, good, good
	wrongPassword.User, wrongPassword.Password = c.owner+"_b", "not-it-at-all"
	c.passwords = append(c.passwords, wrongPassword.Password)
	noRole.User = "nobody_of_that_name"
	noDatabase.Database = "nowhere"
	noServer.Port = uint16(lowPort(t))
	c.publish(t, good)
	a := c.ready(t)
	l := a.load(t, 2, 1)
	for _, s := range []struct {
		name, reason string
		do           func()
	}{
		{"half a URI", "Malformed", func() { c.show(t, map[string]string{"uri_dsn.txt": good.URI()[:20]}) }},
		{"keys that disagree", "Malformed", func() {
			c.show(t, map[string]string{"uri_dsn.txt": good.URI(), "username": "other"})
		}},
		{"a Secret without keys", "Missing", func() { c.show(t, nil) }},
		{"a wrong password", postgres.LoginRefused, func() { c.publish(t, wrongPassword) }},
		{"a folder without a version", "Missing", func() { must(t, os.Remove(filepath.Join(c.dir, "..data"))) }},
		{"a user that is not there", postgres.LoginRefused, func() { c.publish(t, noRole) }},
		{"a database that is not there", postgres.DatabaseMissing, func() { c.publish(t, noDatabase) }},
		{"a server that is not there", postgres.Unreachable, func() { c.publish(t, noServer) }},
		{"a password with a line break", "Unwritable", func() {
			broken := good
			broken.Password = "two\nlines"
			c.publish(t, broken)
		}},
		{"no folder at all", "Missing", func() { must(t, os.RemoveAll(c.dir)) }},
	} {
		counter := `berth_dbproxy_credential_errors_total{reason="` + s.reason + `"}`
		before := a.metric(counter)
		s.do()
		eventually(t, s.name+" is counted as "+s.reason, func() bool { return a.metric(counter) > before })
		if code, why := a.get("/healthz"); code != http.StatusOK {
			t.Errorf("%s: healthz is %d %s", s.name, code, why)
		}
		if got := a.login(); got != good.User {
			t.Errorf("%s: login = %s", s.name, got)
		}
	}
	must(t, os.Mkdir(c.dir, 0o755))
	next := c.open(t, "_b")
	c.publish(t, next)
	a.awaitLogin(t, next.User)
	l.verdict(t, c)
}

// A credential that is refused now may be right a moment later: nobody has to
// touch the Secret again.
func TestARefusedCredentialIsTriedAgain(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t)
	next := c.open(t, "_b")
	c.close(t, "_b")
	c.publish(t, next)
	eventually(t, "it is refused", func() bool { return a.metric(`berth_dbproxy_flips_total{result="refused"}`) > 0 })
	c.server.Exec(t, "", "ALTER ROLE "+id(next.User)+" LOGIN")
	a.awaitLogin(t, next.User)
}

func TestStartsBeforeItsServer(t *testing.T) {
	t.Parallel()
	server := testkit.NewPostgres(t, 15)
	c := newTenant(t, server)
	c.publish(t, c.open(t, "_a"))
	server.Stop(t)
	a := c.ready(t)
	eventually(t, "the silence of the server is counted", func() bool {
		return a.metric(`berth_dbproxy_credential_errors_total{reason="Unreachable"}`) > 0
	})
	server.Start(t)
	eventually(t, "a client gets through", func() bool {
		conn, err := testkit.Connect(t.Context(), a.target())
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close(t.Context()) }()
		_, err = conn.Exec(t.Context(), insert)
		return err == nil
	})
	server.Stop(t)
	if code, why := a.get("/healthz"); code != http.StatusOK {
		t.Errorf("with the database down healthz is %d %s", code, why)
	}
}

func TestPgbouncerIsRestarted(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t)
	for n := range 3 {
		old := a.child()
		must(t, syscall.Kill(old, syscall.SIGKILL))
		eventually(t, "a new pgbouncer", func() bool {
			code, _ := a.get("/healthz")
			return code == http.StatusOK && a.child() != old && a.child() != 0
		})
		if got := a.ask(t, "SELECT current_user::text"); got != c.owner {
			t.Errorf("current_user = %s", got)
		}
		if got := a.metric("berth_dbproxy_pgbouncer_restarts_total"); got != float64(n+1) {
			t.Errorf("restarts = %v, want %d", got, n+1)
		}
	}
	next := c.open(t, "_b")
	c.publish(t, next)
	a.awaitLogin(t, next.User)
}

// The credential may change while pgbouncer is down, and pgbouncer may end
// while the credential changes.
func TestPgbouncerEndsInAChange(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t)
	slots := []string{"_a", "_b"}
	for n := range 5 {
		next := c.open(t, slots[(n+1)%2])
		c.publish(t, next)
		<-time.After(10*time.Millisecond + time.Duration(rand.IntN(25_000))*time.Microsecond)
		if pid := a.child(); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be down already
		}
		a.awaitLogin(t, next.User)
		eventually(t, "clients are served as "+next.User, func() bool {
			conn, err := testkit.Connect(t.Context(), a.target())
			if err != nil {
				return false
			}
			defer func() { _ = conn.Close(t.Context()) }()
			var user string
			return conn.QueryRow(t.Context(), "SELECT session_user::text").Scan(&user) == nil && user == next.User
		})
	}
}

// Killed at any moment of a change, the next life is on the newest credential,
// and pgbouncer did not outlive the one before.
func TestKilledInAChange(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t)
	slots := []string{"_a", "_b"}
	for n := range 10 {
		next := c.open(t, slots[(n+1)%2])
		child := a.child()
		c.publish(t, next)
		<-time.After(10*time.Millisecond + time.Duration(rand.IntN(25_000))*time.Microsecond)
		a.signal(t, syscall.SIGKILL)
		<-a.process.Done()
		eventually(t, "pgbouncer is gone", func() bool { return gone(child) })
		a.start(t)
		a.awaitReady(t)
		if got := a.login(); got != next.User {
			t.Fatalf("login = %s, want %s", got, next.User)
		}
		if got := a.ask(t, "SELECT session_user::text"); got != next.User {
			t.Fatalf("session_user = %s, want %s", got, next.User)
		}
	}
	staged, err := filepath.Glob(filepath.Join(a.state, "pgbouncer", "*.staged"))
	must(t, err)
	if len(staged) > 0 {
		t.Errorf("passwords were left behind in %v", staged)
	}
}

// A server that accepts and never answers keeps a login in flight, and with it
// the change at its first step: long enough to be killed right there.
func TestKilledWhileThePoolIsHeld(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	a, next := c.held(t)
	a.signal(t, syscall.SIGKILL)
	<-a.process.Done()
	a.start(t)
	a.awaitReady(t)
	if got := a.ask(t, "SELECT session_user::text"); a.login() != next.User || got != next.User {
		t.Errorf("login %s, session_user %s, want %s", a.login(), got, next.User)
	}
}

// A change that fails half-way does not leave the pool held.
func TestAFailedChangeIsTakenBack(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	a, next := c.held(t)
	ini := filepath.Join(a.state, "pgbouncer", "pgbouncer.ini")
	staged, err := filepath.Glob(ini + ".*.staged")
	must(t, err)
	for _, path := range staged {
		text, err := os.ReadFile(path)
		must(t, err)
		if strings.Contains(string(text), "user='"+next.User+"'") {
			must(t, os.Remove(path))
		}
	}
	eventually(t, "the failure is counted", func() bool { return a.metric(`berth_dbproxy_flips_total{result="failed"}`) == 1 })
	text, err := os.ReadFile(ini)
	must(t, err)
	if strings.Contains(string(text), "pool_size=1\n") || !strings.Contains(string(text), "user='"+c.owner+"_a'") {
		t.Error("the configuration before is not back")
	}
	a.awaitLogin(t, next.User)
}

// A login that never ends does not keep the proxy from a server that works.
func TestAServerThatDoesNotAnswerIsLeft(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	a, next := c.held(t)
	a.awaitLogin(t, next.User)
	eventually(t, "clients are served", func() bool {
		conn, err := testkit.Connect(t.Context(), a.target())
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close(t.Context()) }()
		_, err = conn.Exec(t.Context(), insert)
		return err == nil
	})
}

// held launches an agent that is on its way from a silent server to next.
func (c *tenant) held(t *testing.T) (a *agent, next postgres.Target) {
	t.Helper()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	nowhere := c.open(t, "_a")
	nowhere.Port = uint16(silent.Addr().(*net.TCPAddr).Port)
	c.publish(t, nowhere)
	a = c.ready(t)
	via := a.target()
	go func() {
		// Has the pool log in. Its own fate is not the matter.
		if conn, err := testkit.Connect(t.Context(), via); err == nil {
			_ = conn.Close(t.Context())
		}
	}()
	eventually(t, "a login is in flight", func() bool { return a.metric("berth_dbproxy_waiting") > 0 })
	next = c.open(t, "_b")
	c.publish(t, next)
	eventually(t, "the pool is held", func() bool {
		text, _ := os.ReadFile(filepath.Join(a.state, "pgbouncer", "pgbouncer.ini"))
		return strings.Contains(string(text), "pool_size=1\n")
	})
	return a, next
}

// A full disk, and a folder that cannot be written: the good configuration
// goes on, and the change is made once there is room.
func TestAStateFolderThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(t *testing.T, folder string) (repair func()){
		"full": func(t *testing.T, folder string) func() {
			// The next generations of the configuration are written to a device that is always full.
			var links []string
			for n := 2; n < 20; n++ {
				link := filepath.Join(folder, fmt.Sprintf("pgbouncer.ini.%d.staged", n))
				must(t, os.Symlink("/dev/full", link))
				links = append(links, link)
			}
			return func() {
				for _, link := range links {
					_ = os.Remove(link) // the agent may have removed it
				}
			}
		},
		"read-only": func(t *testing.T, folder string) func() {
			must(t, os.Chmod(folder, 0o500))
			return func() { must(t, os.Chmod(folder, 0o700)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTenant(t, testkit.Postgres(t, 15))
			first := c.open(t, "_a")
			c.publish(t, first)
			a := c.ready(t)
			l := a.load(t, 2, 1)
			repair := breakIt(t, filepath.Join(a.state, "pgbouncer"))
			next := c.open(t, "_b")
			c.publish(t, next)
			eventually(t, "the failure is counted", func() bool {
				return a.metric(`berth_dbproxy_credential_errors_total{reason="StateFolder"}`) > 0
			})
			if a.login() != first.User {
				t.Errorf("login = %s", a.login())
			}
			repair()
			a.awaitLogin(t, next.User)
			l.verdict(t, c)
		})
	}
}

func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	open := filepath.Join(testkit.OpenDir(t), "open")
	must(t, os.MkdirAll(filepath.Join(open, "pgbouncer"), 0o755))
	must(t, os.Chmod(filepath.Join(open, "pgbouncer"), 0o777))
	own(t, open)
	for name, tc := range map[string]struct {
		flags []string
		says  string
	}{
		"a port that is taken":              {[]string{"--listen", taken.Addr().String()}, "the port is taken"},
		"an address others reach":           {[]string{"--listen", "0.0.0.0:15432"}, "--listen must be a loopback address"},
		"a pgbouncer that is not there":     {[]string{"--pgbouncer", "/nowhere/pgbouncer"}, "finding pgbouncer"},
		"a pgbouncer that ends at once":     {[]string{"--pgbouncer", "/bin/false"}, "starting pgbouncer: it ended"},
		"a state folder others can get at":  {[]string{"--state", open}, "with mode 0700"},
		"scram without a password":          {[]string{"--client-auth", "scram"}, "--client-password-file"},
		"a password file that is not there": {[]string{"--client-auth", "scram", "--client-password-file", "/nowhere"}, "reading the client password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := c.launch(t, tc.flags...)
			if code := a.exitCode(t); code == 0 {
				t.Error("exit code 0")
			}
			if !strings.Contains(a.log.String(), tc.says) {
				t.Errorf("it does not say %q:\n%s", tc.says, a.log)
			}
		})
	}
}
