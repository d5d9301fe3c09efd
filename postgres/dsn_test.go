package postgres_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/postgres"
)

func TestParseDSN(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		dsn  string
		want postgres.Target
	}{
		"a user without a password":         {"postgres://root@host", postgres.Target{Host: "host", Port: 5432, User: "root"}},
		"a user with an empty password":     {"postgres://root:@host/db", postgres.Target{Host: "host", Port: 5432, User: "root", Database: "db"}},
		"everything, escaped":               {"postgresql://a%20b:p%40%2F%3A%23@h.example:6000/d%20b?sslmode=verify-full", postgres.Target{Host: "h.example", Port: 6000, User: "a b", Password: "p@/:#", Database: "d b", SSLMode: "verify-full"}},
		"a plus is a plus":                  {"postgres://u:a+b@h/d", postgres.Target{Host: "h", Port: 5432, User: "u", Password: "a+b", Database: "d"}},
		"symbols that need no escape":       {"postgres://u:&#x?~=@h/d", postgres.Target{Host: "h", Port: 5432, User: "u", Password: "&#x?~=", Database: "d"}},
		"an IPv6 host":                      {"postgres://u@[::1]:5433/d", postgres.Target{Host: "::1", Port: 5433, User: "u", Database: "d"}},
		"settings of a session are ignored": {"postgres://h/d?application_name=x&connect_timeout=3&sslmode=require", postgres.Target{Host: "h", Port: 5432, Database: "d", SSLMode: "require"}},
		"the host as a parameter":           {"postgres:///d?host=h&port=1&user=u&password=p", postgres.Target{Host: "h", Port: 1, User: "u", Password: "p", Database: "d"}},
		"a socket folder":                   {"postgres:///d?host=/var/run/pg", postgres.Target{Host: "/var/run/pg", Port: 5432, Database: "d"}},
		"keywords":                          {" host=h port = 6000 user='a b' password='it\\'s \\\\' dbname=d sslmode=disable ", postgres.Target{Host: "h", Port: 6000, User: "a b", Password: `it's \`, Database: "d", SSLMode: "disable"}},
		"keywords with an unquoted escape":  {`host=h password=a\ b`, postgres.Target{Host: "h", Port: 5432, Password: "a b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := postgres.ParseDSN(tc.dsn)
			if err != nil {
				t.Fatal(err)
			}
			if got.URI() != tc.want.URI() {
				t.Fatal(cmp.Diff(tc.want.URI(), got.URI()))
			}
		})
	}
}

func TestParseDSNNamesTheRuleAndNotTheInput(t *testing.T) {
	t.Parallel()
	for dsn, rule := range map[string]string{
		"":                                       "host is missing",
		"hunter2":                                "must be a URI",
		"mysql://u:hunter2@h/d":                  "scheme",
		"postgres://u:hunter2@h:99999/d":         "port",
		"postgres://u:hunter2@h:0/d":             "port",
		"postgres://u:hunt%zzer2@h/d":            "hexadecimal",
		"postgres://u:hunter2%00@h/d":            "hexadecimal",
		"postgres://u:hun@ter2@h/d":              "percent-encoded",
		"postgres://u:hunter2@h,i/d":             "single host",
		"postgres://u:hunter2@/d":                "host is missing",
		"postgres://u:hunter2@h/d?sslmode=safe":  "sslmode",
		"postgres://u:hunter2@h/d?service=x":     "supported",
		"postgres://u:hunter2@h/d?sslrootcert=x": "root certificate",
		"postgres://u:hunter2@[::1/d":            "IPv6",
		"host=h password='hunter2":               "single quote",
		"host=h,i password=hunter2":              "single host",
		"host='h x' password=hunter2":            "name or an IP address",
		"host=h\x00 password=hunter2":            "UTF-8",
	} {
		_, err := postgres.ParseDSN(dsn)
		var fault *postgres.Fault
		if !errors.As(err, &fault) || fault.Reason != postgres.MalformedDSN || !fault.Permanent || !strings.Contains(fault.Message, rule) {
			t.Errorf("%q: want %q, have %v", dsn, rule, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunt") {
			t.Errorf("%q: the message shows the input: %v", dsn, err)
		}
	}
}

func TestTargetsSurviveTheirText(t *testing.T) {
	t.Parallel()
	text := rapid.StringOf(rapid.Rune().Filter(func(r rune) bool { return r != 0 && r != utf8.RuneError }))
	rapid.Check(t, func(t *rapid.T) {
		want := postgres.Target{
			Host: rapid.SampledFrom([]string{"h", "db.example.com", "10.0.0.1", "::1", "fe80::1%eth0", "/run/my pg"}).Draw(t, "host"),
			Port: rapid.Uint16Min(1).Draw(t, "port"), User: text.Draw(t, "user"), Password: text.Draw(t, "password"), Database: text.Draw(t, "database"),
			SSLMode: rapid.SampledFrom([]string{"", "disable", "prefer", "require", "verify-ca", "verify-full"}).Draw(t, "sslmode"),
		}
		for _, dsn := range []string{want.URI(), want.KeyValue()} {
			got, err := postgres.ParseDSN(dsn)
			if err != nil {
				t.Fatalf("%s: %v", dsn, err)
			}
			if got.KeyValue() != want.KeyValue() || got.URI() != want.URI() {
				t.Fatalf("%s\n%s", want.KeyValue(), got.KeyValue())
			}
			if strings.Contains(want.URI(), "+") {
				t.Fatalf("a plus in %s", want.URI())
			}
		}
	})
}

func FuzzParseDSN(f *testing.F) {
	for _, seed := range []string{"postgres://u:p@h:1/d?sslmode=require", "host=h user='a b'", "postgres://[::1]", "postgresql://%", "=", "host='", `host=\`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, dsn string) {
		target, err := postgres.ParseDSN(dsn)
		if err != nil {
			return
		}
		for _, text := range []string{target.URI(), target.KeyValue()} {
			again, err := postgres.ParseDSN(text)
			if err != nil || again.URI() != target.URI() || again.KeyValue() != target.KeyValue() {
				t.Fatalf("%q became %q: %v", dsn, text, err)
			}
		}
	})
}

func TestNoFormOfPrintingShowsASecret(t *testing.T) {
	t.Parallel()
	target := postgres.Target{Host: "h", Port: 1, User: "u", Password: "hunter2", Database: "d"}
	login := postgres.Login{Name: "a", Verifier: "hunter2"}
	plan := postgres.DecideLogin(login, postgres.LoginState{}, postgres.Facts{})
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	for _, value := range []any{target, &target, login, &login, plan, plan[0], &plan[0], struct{ T postgres.Target }{target}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			fmt.Fprintf(&log, verb+"\n", value)
		}
		logger.Info("x", "value", value)
	}
	if strings.Contains(log.String(), "hunter2") || strings.Contains(log.String(), fmt.Sprintf("%x", "hunter2")) {
		t.Fatal(log.String())
	}
	if got, want := plan[0].String(), `CREATE ROLE "a" LOGIN PASSWORD '<redacted>'`; got != want {
		t.Fatalf("have %s", got)
	}
	tricky := postgres.Statement{Sensitive: true, SQL: `ALTER ROLE "it's ""odd""" PASSWORD 'a''b' IN ROLE "x'"`}
	if got, want := tricky.String(), `ALTER ROLE "it's ""odd""" PASSWORD '<redacted>' IN ROLE "x'"`; got != want {
		t.Fatalf("have %s", got)
	}
}

func TestTheEnvironmentHasNoInfluence(t *testing.T) {
	for name, value := range map[string]string{"PGHOST": "elsewhere", "PGPASSWORD": "hunter2", "PGSSLMODE": "nonsense", "PGOPTIONS": "-c x=y", "PGSSLCERT": "/no/such", "PGCONNECT_TIMEOUT": "x"} {
		t.Setenv(name, value)
	}
	cfg, err := postgres.Target{Host: "::1", Port: 5, User: "u", SSLMode: "prefer"}.ConnConfig()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Host != "::1" || cfg.Port != 5 || cfg.Password != "" || cfg.TLSConfig == nil || len(cfg.Fallbacks) != 1 || cfg.RuntimeParams["options"] != "" {
		t.Fatalf("host %s port %d fallbacks %d params %v", cfg.Host, cfg.Port, len(cfg.Fallbacks), cfg.RuntimeParams)
	}
}
