package dbproxy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
)

func TestPasswordsOfAllKinds(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t)
	slots := []string{"_a", "_b"}
	for n, password := range []string{
		`p'w"x\y%z#a;b@c d=e-1`, `''''''''-2`, `"""-33333`, `\\\\\\\\-4`, ` leading and trailing `, `%include /etc/passwd`,
		`; comment # comment`, `a' pool_size=1 host='evil`, "tab\tinside", `pässwörd-日本語-🔑`, `${HOME} $(id) ` + "`id`", `*-?[a]{b}~!^&()<>|`,
		`' user='postgres' password='`, strings.Repeat("long-", 80),
	} {
		target := c.openWith(t, slots[(n+1)%2], password)
		c.publish(t, target)
		a.awaitLogin(t, target.User)
		if got := a.ask(t, "SELECT session_user::text"); got != target.User {
			t.Errorf("with %q session_user = %s", password, got)
		}
	}
}

func TestNamesOfAllKinds(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t, 15)
	for _, name := range []string{
		`we"ird 'name'`, `semi;colon # = %`, `back\slash`, `größe 日本`, `-- DROP`, strings.Repeat("n", 61), "UPPER.Case-1_x", "pgbouncer",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			suffix := "-" + server.NewDatabaseName(t)
			unique := name[:min(len(name), 61-len(suffix))] + suffix
			c := newTenantNamed(t, server, unique, unique)
			c.publish(t, c.open(t, "_a"))
			a := c.ready(t, "--database-alias", "orders")
			via := a.target()
			via.Database = "orders"
			for _, slot := range []string{"_a", "_b"} {
				if slot == "_b" {
					c.publish(t, c.open(t, slot))
					a.awaitLogin(t, unique+slot)
				}
				conn, err := testkit.Connect(t.Context(), via)
				must(t, err)
				if got := one(t, conn, "SELECT session_user || current_user || current_database()"); got != unique+slot+unique+unique {
					t.Errorf("logged in as %s", got)
				}
				must(t, conn.Close(t.Context()))
			}
		})
	}
}

func TestClientsNameTheDatabase(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t, 15)
	plain := newTenant(t, server)
	odd := newTenantNamed(t, server, plain.owner+"_odd", plain.database+" odd")
	for name, tc := range map[string]struct {
		tenant *tenant
		flags  []string
		works  string
		fails  string
	}{
		"as the credential does":                {plain, nil, plain.database, "other"},
		"by its alias":                          {plain, []string{"--database-alias", "Orders.db-1"}, "Orders.db-1", plain.database},
		"app, where pgbouncer has no other way": {odd, nil, "app", odd.database},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := *tc.tenant
			c.dir = filepath.Join(testkit.OpenDir(t), "secret")
			must(t, os.Mkdir(c.dir, 0o755))
			target := c.server.Target()
			target.Database = c.database
			c.passwords = []string{target.Password}
			c.publish(t, target)
			a := c.ready(t, tc.flags...)
			via := a.target()
			via.Database = tc.works
			conn, err := testkit.Connect(t.Context(), via)
			must(t, err)
			if got := one(t, conn, "SELECT current_database()::text"); got != c.database {
				t.Errorf("database = %s", got)
			}
			must(t, conn.Close(t.Context()))
			via.Database = tc.fails
			if _, err := testkit.Connect(t.Context(), via); err == nil {
				t.Errorf("a client may name it %s", tc.fails)
			}
		})
	}
}

// A program keeps the user name that it read first; the server sees the
// current login whatever that was.
func TestClientsNameTheirUser(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t, "--client-users", "shop,ledger")
	for _, login := range []string{c.owner + "_a", c.owner + "_b"} {
		for user, may := range map[string]bool{
			"shop": true, "ledger": true, c.owner: true, c.owner + "_a": true, c.owner + "_b": true,
			"app": false, "postgres": false, "pgbouncer": false,
		} {
			via := a.target()
			via.User = user
			conn, err := testkit.Connect(t.Context(), via)
			if (err == nil) != may {
				t.Errorf("user %s may log in: %v", user, err == nil)
			}
			if err != nil {
				continue
			}
			if got := one(t, conn, "SELECT session_user::text"); got != login {
				t.Errorf("user %s acts as %s, want %s", user, got, login)
			}
			must(t, conn.Close(t.Context()))
		}
		target := c.open(t, "_b")
		c.publish(t, target)
		a.awaitLogin(t, target.User)
	}
}

// Nobody who reaches the port reaches the console, and with it the password.
func TestTheConsoleIsClosed(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	a := c.ready(t)
	for _, user := range []string{"pgbouncer", "app", c.owner, "postgres"} {
		via := a.target()
		via.User, via.Database = user, "pgbouncer"
		if _, err := testkit.Connect(t.Context(), via); err == nil {
			t.Errorf("user %s reaches the console over TCP", user)
		}
	}
	must(t, filepath.WalkDir(a.state, func(path string, entry os.DirEntry, err error) error {
		if err != nil || path == a.state {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", path, info.Mode())
		}
		return err
	}))
}

func TestClientsProveThemselves(t *testing.T) {
	t.Parallel()
	c := newTenant(t, testkit.Postgres(t, 15))
	c.publish(t, c.open(t, "_a"))
	const password = `client "pass' wörd\`
	c.passwords = append(c.passwords, password)
	file := filepath.Join(testkit.OpenDir(t), "client-password")
	must(t, os.WriteFile(file, []byte(password+"\n"), 0o600))
	own(t, file)
	a := c.ready(t, "--client-auth", "scram", "--client-password-file", file)
	for n, slot := range []string{"_b", "_a", "_b"} {
		for given, may := range map[string]bool{password: true, "wrong": false, "": false} {
			via := a.target()
			via.Password = given
			conn, err := testkit.Connect(t.Context(), via)
			if (err == nil) != may {
				t.Fatalf("flip %d: with %q a client may log in: %v", n, given, err == nil)
			}
			if err == nil {
				one(t, conn, "SELECT session_user::text")
				must(t, conn.Close(t.Context()))
			}
		}
		target := c.open(t, slot)
		c.publish(t, target)
		a.awaitLogin(t, target.User)
	}
}

func TestTheServerIsVerified(t *testing.T) {
	t.Parallel()
	server, other := testkit.NewPostgres(t, 15), testkit.NewPostgres(t, 15)
	root, stranger := server.EnableTLS(t, "localhost"), other.EnableTLS(t, "localhost")
	c := newTenant(t, server)
	secure := func(slot, host, mode string, ca []byte) postgres.Target {
		target := c.open(t, slot)
		target.Host, target.SSLMode, target.RootCA = host, mode, ca
		return target
	}
	c.publish(t, secure("_a", "localhost", "verify-full", root))
	a := c.ready(t)
	encrypted := func(login string) string {
		conn := a.connect(t)
		one(t, conn, "SELECT 'a session'")
		return strings.Join(server.Query(t, "", "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = '"+login+"' ORDER BY backend_start DESC LIMIT 1"), " ")
	}
	if got := encrypted(c.owner + "_a"); got != "t" {
		t.Fatalf("ssl = %s", got)
	}
	for _, s := range []struct {
		name, host, mode string
		ca               []byte
		ssl              string // empty: it is refused
	}{
		{"verify-ca by an address that is not in the certificate", "127.0.0.1", "verify-ca", root, "t"},
		{"verify-full by that address", "127.0.0.1", "verify-full", root, ""},
		{"another authority", "localhost", "verify-full", stranger, ""},
		{"the system's authorities", "localhost", "verify-full", nil, ""},
		{"require with another authority", "localhost", "require", stranger, ""},
		{"require", "localhost", "require", nil, "t"},
		{"prefer", "localhost", "prefer", nil, "t"},
		{"disable", "localhost", "disable", nil, "f"},
	} {
		login := a.login()
		slot := "_a"
		if strings.HasSuffix(login, "_a") {
			slot = "_b"
		}
		target := secure(slot, s.host, s.mode, s.ca)
		before := a.metric(fmt.Sprintf("berth_dbproxy_credential_errors_total{reason=%q}", postgres.TLSRefused))
		c.publish(t, target)
		if s.ssl == "" {
			eventually(t, s.name+" is refused", func() bool {
				return a.metric(fmt.Sprintf("berth_dbproxy_credential_errors_total{reason=%q}", postgres.TLSRefused)) > before
			})
			if a.login() != login {
				t.Errorf("%s: login = %s", s.name, a.login())
			}
			continue
		}
		a.awaitLogin(t, target.User)
		if got := encrypted(target.User); got != s.ssl {
			t.Errorf("%s: ssl = %s", s.name, got)
		}
	}
}
