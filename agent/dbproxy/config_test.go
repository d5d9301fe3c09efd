package dbproxy

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/mount"
	"github.com/berth-dev/berth/postgres"
)

var usable = Options{
	Credentials: "/c", Listen: "127.0.0.1:5432", State: "/s", Pgbouncer: "pgbouncer", Pool: "transaction", PoolSize: 20,
	ClientAuth: "trust", ClientUsers: []string{"app"}, Drain: 30 * time.Second, OldLoginLimit: time.Minute,
	HealthAddress: "127.0.0.1:9127", MetricsAddress: "127.0.0.1:9129",
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*Options)
		says   string // empty: it is fine
	}{
		"the defaults":                        {func(*Options) {}, ""},
		"loopback of IPv6":                    {func(o *Options) { o.Listen = "[::1]:5432" }, ""},
		"metrics for the whole pod":           {func(o *Options) { o.MetricsAddress = ":9129" }, ""},
		"session pooling":                     {func(o *Options) { o.Pool = "session" }, ""},
		"all addresses":                       {func(o *Options) { o.Listen = "0.0.0.0:5432" }, "--listen"},
		"an address of the network":           {func(o *Options) { o.Listen = "192.0.2.1:5432" }, "--listen"},
		"a host name":                         {func(o *Options) { o.Listen = "localhost:5432" }, "--listen"},
		"no port":                             {func(o *Options) { o.Listen = "127.0.0.1" }, "--listen"},
		"any port":                            {func(o *Options) { o.Listen = "127.0.0.1:0" }, "--listen"},
		"a relative folder":                   {func(o *Options) { o.State = "state" }, "--state"},
		"a folder too deep for a socket":      {func(o *Options) { o.State = "/" + strings.Repeat("d", 90) }, "--state"},
		"statement pooling":                   {func(o *Options) { o.Pool = "statement" }, "--pool"},
		"no connections":                      {func(o *Options) { o.PoolSize = 0 }, "--pool-size"},
		"no time to drain":                    {func(o *Options) { o.Drain = 0 }, "--drain"},
		"time that runs backwards":            {func(o *Options) { o.OldLoginLimit = -1 }, "--old-login-limit"},
		"scram without a password":            {func(o *Options) { o.ClientAuth = "scram" }, "--client-password-file"},
		"a password that nobody asks for":     {func(o *Options) { o.ClientPasswordFile = "/p" }, "--client-password-file"},
		"a user with a line break":            {func(o *Options) { o.ClientUsers = []string{"a\nb"} }, "--client-users"},
		"the console's user":                  {func(o *Options) { o.ClientUsers = []string{"pgbouncer"} }, "--client-users"},
		"an alias pgbouncer cannot write":     {func(o *Options) { o.DatabaseAlias = "a b" }, "--database-alias"},
		"the console's database as the alias": {func(o *Options) { o.DatabaseAlias = "pgbouncer" }, "--database-alias"},
		"health for the whole pod":            {func(o *Options) { o.HealthAddress = ":9127" }, "--health-address"},
		"a metrics address without a port":    {func(o *Options) { o.MetricsAddress = "127.0.0.1" }, "--metrics-address"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := usable
			tc.change(&o)
			err := o.Validate()
			if (err == nil) != (tc.says == "") || err != nil && !strings.HasPrefix(err.Error(), tc.says+" ") {
				t.Fatalf("error = %v, want one about %q", err, tc.says)
			}
		})
	}
}

func credential(change func(*postgres.Target)) mount.Credential {
	target := postgres.Target{Host: "db", Port: 5432, User: "orders_a", Password: "secret", Database: "orders", SSLMode: "require"}
	change(&target)
	return mount.Credential{Target: target}
}

// TLS to the server is at least what libpq makes of the same settings.
func TestServerTLSIsNeverWeaker(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		mode, host string
		ca         bool
		want, file string
	}{
		"nothing said":               {"", "db", false, "prefer", ""},
		"allow":                      {"allow", "db", false, "prefer", ""},
		"prefer":                     {"prefer", "db", false, "prefer", ""},
		"disable":                    {"disable", "db", true, "disable", ""},
		"require":                    {"require", "db", false, "require", ""},
		"require with a root":        {"require", "db", true, "verify-ca", "own"},
		"verify-ca":                  {"verify-ca", "db", true, "verify-ca", "own"},
		"verify-full":                {"verify-full", "db", true, "verify-full", "own"},
		"verify-full without a root": {"verify-full", "db", false, "verify-full", "system"},
		"a unix socket":              {"prefer", "/run", false, "disable", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := credential(func(target *postgres.Target) {
				target.Host, target.SSLMode = tc.host, tc.mode
				if tc.ca {
					target.RootCA = []byte("a certificate")
				}
			})
			if got := serverTLS(c); got != tc.want {
				t.Errorf("sslmode = %s, want %s", got, tc.want)
			}
			file := usable.caFile(c)
			kind := map[bool]string{true: "own", false: "system"}[strings.HasPrefix(file, usable.private())]
			if file == "" {
				kind = ""
			}
			if kind != tc.file {
				t.Errorf("CA file = %q, want %s", file, tc.file)
			}
		})
	}
}

// No value can end its quotes, and with it begin another setting.
func TestQuotedValuesStayWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.StringMatching(`[^\x00\n\r]*`).Draw(t, "value")
		rest, opened := strings.CutPrefix(quote(value), "'")
		rest, closed := strings.CutSuffix(rest, "'")
		if !opened || !closed || strings.Contains(strings.ReplaceAll(rest, "''", ""), "'") || strings.ReplaceAll(rest, "''", "'") != value {
			t.Fatalf("quote(%q) = %s", value, quote(value))
		}
	})
}

func TestTheGenerationStandsLast(t *testing.T) {
	t.Parallel()
	text := usable.render(settings{credential: credential(func(*postgres.Target) {}), alias: "orders", held: true, generation: 7})
	if !strings.HasSuffix(text, "\nsyslog_ident = berth-7\n") {
		t.Errorf("the file ends otherwise:\n%s", text[len(text)-80:])
	}
	if !strings.Contains(text, "orders = host='db' port=5432 dbname='orders' user='orders_a' password='secret' pool_size=1\n") {
		t.Error("the database's line is not as expected")
	}
}

func TestCredentialsPgbouncerCannotHold(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*postgres.Target)
		fits   bool
	}{
		"every special character":     {func(c *postgres.Target) { c.Password = "'\"\\%;# \t=é" }, true},
		"the longest name":            {func(c *postgres.Target) { c.User = strings.Repeat("n", 63) }, true},
		"a line break in a password":  {func(c *postgres.Target) { c.Password = "a\nb" }, false},
		"a return in a user":          {func(c *postgres.Target) { c.User = "a\rb" }, false},
		"a NUL in a database":         {func(c *postgres.Target) { c.Database = "a\x00b" }, false},
		"a line break in a host":      {func(c *postgres.Target) { c.Host = "/run\n" }, false},
		"a name PostgreSQL would cut": {func(c *postgres.Target) { c.User = strings.Repeat("n", 64) }, false},
		"a password of 2 kB":          {func(c *postgres.Target) { c.Password = strings.Repeat("p", 2048) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := checkWritable(credential(tc.change)); (err == nil) != tc.fits {
				t.Errorf("error = %v", err)
			}
		})
	}
}

func TestClientNames(t *testing.T) {
	t.Parallel()
	for login, want := range map[string][]string{
		"orders_a": {"orders_a", "orders", "orders_b"}, "orders_b": {"orders_b", "orders", "orders_a"},
		"orders": {"orders"}, "_a": {"_a"}, "pgbouncer_a": {"pgbouncer_a", "pgbouncer_b"}, "pgbouncer": {},
	} {
		if diff := cmp.Diff(want, clientNames(login)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", login, diff)
		}
	}
}

func TestUserListQuotes(t *testing.T) {
	t.Parallel()
	if got, want := userList([]string{`a"b`, "c"}, `p"w`), "\"a\"\"b\" \"p\"\"w\"\n\"c\" \"p\"\"w\"\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A reason is a label of a metric: one of few words, whatever the error says.
func TestReasons(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"Missing": mount.ErrMissing, "Malformed": mount.ErrMalformed, "Unwritable": errUnwritable, "NotTaken": errNotTaken,
		"PortTaken": errPortTaken, "LoginRefused": &postgres.Fault{Reason: postgres.LoginRefused},
		"StateFolder": &fs.PathError{Op: "write", Path: "x", Err: errors.New("no space")}, "Pgbouncer": errors.New("anything"),
	} {
		if got := reason(fmt.Errorf("doing something: %w", err)); got != want {
			t.Errorf("reason(%v) = %s, want %s", err, got, want)
		}
	}
}
