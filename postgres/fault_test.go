package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	answer := func(code, message string) error {
		return fmt.Errorf("applying: %w", &pgconn.PgError{Severity: "ERROR", Code: code, Message: message})
	}
	for name, tc := range map[string]struct {
		err       error
		reason    string
		permanent bool
		message   string
	}{
		"a wrong password":               {answer("28P01", "password authentication failed"), postgres.LoginRefused, true, "password authentication failed"},
		"no pg_hba line":                 {answer("28000", "no pg_hba.conf entry"), postgres.LoginRefused, true, ""},
		"a missing right":                {answer("42501", "permission denied"), postgres.NotPermitted, true, ""},
		"a missing database":             {answer("3D000", "no such database"), postgres.DatabaseMissing, true, ""},
		"no connection left":             {answer("53300", "too many clients"), postgres.TooManyConnections, false, ""},
		"a server that starts":           {answer("57P03", "starting up"), postgres.ServerStarting, false, ""},
		"a server that ends":             {answer("57P01", "terminating connection"), postgres.Unreachable, false, ""},
		"an extension that is missing":   {answer("0A000", `extension "x" is not available`), postgres.ExtensionUnavailable, true, ""},
		"something unsupported":          {answer("0A000", "cannot do this"), postgres.NotSupported, true, ""},
		"a missing extension file":       {answer("58P01", "could not open"), postgres.ExtensionUnavailable, true, ""},
		"a database in use":              {answer("55006", "is being accessed"), postgres.Busy, false, ""},
		"a race in the catalog":          {answer("XX000", "tuple concurrently updated"), postgres.Busy, false, ""},
		"a deadlock":                     {answer("40P01", "deadlock; Process 4711 waits"), postgres.Busy, false, "Process waits"},
		"a statement that took too long": {answer("57014", "canceling statement"), postgres.TimedOut, false, ""},
		"a syntax error":                 {answer("42601", "at or near SCRAM-SHA-256$secret"), postgres.ServerError, false, "syntax error"},
		"anything else":                  {answer("XX999", "odd"), postgres.ServerError, false, "odd"},
		"an unknown host":                {&net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}, postgres.Unreachable, false, ""},
		"the end of the time":            {context.DeadlineExceeded, postgres.TimedOut, false, ""},
		"an interruption":                {context.Canceled, postgres.Interrupted, false, ""},
		"a refusal of ours":              {fmt.Errorf("x: %w", &postgres.Fault{Reason: "Mine", Permanent: true, Message: "m"}), "Mine", true, "m"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fault := postgres.Explain(tc.err)
			if fault.Reason != tc.reason || fault.Permanent != tc.permanent || !strings.Contains(fault.Message, tc.message) {
				t.Fatalf("have %s permanent=%v: %s", fault.Reason, fault.Permanent, fault.Message)
			}
			if strings.Contains(fault.Message, "secret") || strings.Contains(fault.Message, "4711") {
				t.Fatalf("message: %s", fault.Message)
			}
			if tc.reason != "Mine" && !errors.Is(fault, tc.err) {
				t.Fatal("the cause is lost")
			}
		})
	}
	long := postgres.Explain(answer("42501", strings.Repeat("ü\x00\xff", 400)))
	if len(long.Message) > 300 || !utf8.ValidString(long.Message) || strings.ContainsRune(long.Message, 0) {
		t.Fatalf("%d bytes: %q", len(long.Message), long.Message)
	}
}

func TestUnreachableAddressesAreExplained(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(closed.Addr().(*net.TCPAddr).Port)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	plain := testkit.Postgres(t, 17).Target()
	plain.SSLMode = "verify-full"
	missing := testkit.Postgres(t, 17).Target()
	missing.Database = "no_such_database"
	for name, tc := range map[string]struct {
		target    postgres.Target
		reason    string
		permanent bool
	}{
		"a closed port":              {postgres.Target{Host: "127.0.0.1", Port: port, User: "u", Password: "hunter2"}, postgres.Unreachable, false},
		"a name that is not known":   {postgres.Target{Host: "no-such-host.invalid", Port: 1, User: "u", Password: "hunter2"}, postgres.Unreachable, false},
		"a server without TLS":       {plain, postgres.TLSRefused, true},
		"a database that is gone":    {missing, postgres.DatabaseMissing, true},
		"a root CA that is no PEM":   {postgres.Target{Host: "h", Port: 1, SSLMode: "verify-full", RootCA: []byte("x")}, postgres.TLSRefused, true},
		"an sslmode that is unknown": {postgres.Target{Host: "h", Port: 1, SSLMode: "safe"}, postgres.MalformedDSN, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers := postgres.NewServers(postgres.Limits{})
			defer servers.Close()
			_, err := servers.Get(tc.target).Facts(t.Context())
			fault := postgres.Explain(err)
			if err == nil || fault.Reason != tc.reason || fault.Permanent != tc.permanent {
				t.Fatalf("have %s: %v", fault.Reason, err)
			}
			if strings.Contains(err.Error()+fault.Message, "hunter2") {
				t.Fatalf("the password shows: %v", err)
			}
			_, again := servers.Get(tc.target).Facts(t.Context())
			if postgres.Explain(again).Message != fault.Message {
				t.Fatalf("unstable: %q, %q", fault.Message, postgres.Explain(again).Message)
			}
		})
	}
}
