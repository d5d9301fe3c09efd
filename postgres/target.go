// Package postgres holds all SQL of berth: it reads what a server has, decides
// what must change, and applies that. Decide functions are pure; Read and
// Apply are the only ones that talk to a server.
//
// It imports nothing else of berth and knows no Kubernetes. It never puts a
// password or a verifier into an error, and every identifier it sends is quoted.
package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// connectTimeout bounds one attempt to reach a server, login included.
const connectTimeout = 3 * time.Second

// Target is how to reach one server as its administrator, or one database as a
// login. Printing it in any form never shows the password.
type Target struct {
	Host     string
	Port     uint16
	User     string
	Password string
	Database string
	SSLMode  string // as libpq; empty means prefer
	RootCA   []byte // PEM; empty means the system's roots
}

// Address is host:port, with brackets around an IPv6 host.
func (t Target) Address() string {
	return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
}

// String is user@host:port/database.
func (t Target) String() string {
	return fmt.Sprintf("%s@%s/%s", t.User, t.Address(), t.Database)
}

// GoString is String, so that %#v shows no password.
func (t Target) GoString() string { return t.String() }

// Format writes String for every verb.
func (t Target) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(t.String())) }

// LogValue is String.
func (t Target) LogValue() slog.Value { return slog.StringValue(t.String()) }

// ConnConfig is the pgx configuration for t. PG* variables, ~/.pgpass and
// service files have no influence on it.
func (t Target) ConnConfig() (*pgx.ConnConfig, error) {
	cfg, err := neutralConfig()
	if err != nil {
		return nil, err
	}
	if t.Host == "" {
		return nil, malformed("the host is missing")
	}
	secure, err := t.tlsConfig()
	if err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port, cfg.User, cfg.Password, cfg.Database = t.Host, t.Port, t.User, t.Password, t.Database
	attempts := []*tls.Config{secure}
	switch {
	case strings.HasPrefix(t.Host, "/"), t.SSLMode == "disable":
		attempts = []*tls.Config{nil}
	case t.SSLMode == "", t.SSLMode == "prefer":
		attempts = []*tls.Config{secure, nil}
	case t.SSLMode == "allow":
		attempts = []*tls.Config{nil, secure}
	}
	cfg.TLSConfig, cfg.Fallbacks = attempts[0], nil
	for _, c := range attempts[1:] {
		cfg.Fallbacks = append(cfg.Fallbacks, &pgconn.FallbackConfig{Host: t.Host, Port: t.Port, TLSConfig: c})
	}
	cfg.ConnectTimeout = connectTimeout
	cfg.DialFunc = dial
	// A tenant may plant functions in its schemas: nothing but the catalog is
	// ever found without a qualified name.
	cfg.RuntimeParams = map[string]string{
		"application_name":            "berth",
		"search_path":                 "pg_catalog",
		"standard_conforming_strings": "on",
		"client_encoding":             "UTF8",
	}
	// Statements are not prepared, so one round trip each is enough and a
	// pooler in between does no harm.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.StatementCacheCapacity, cfg.DescriptionCacheCapacity = 0, 0
	return cfg, nil
}

func (t Target) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{ServerName: t.Host, MinVersion: tls.VersionTLS12}
	if len(t.RootCA) > 0 {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(t.RootCA) {
			return nil, &Fault{Reason: TLSRefused, Permanent: true, Message: "the root CA holds no PEM certificate"}
		}
	}
	switch t.SSLMode {
	case "verify-full":
	case "verify-ca":
		verifyChainOnly(cfg)
	case "require":
		// libpq: require with a root CA at hand means verify-ca.
		cfg.InsecureSkipVerify = true
		if cfg.RootCAs != nil {
			verifyChainOnly(cfg)
		}
	case "", "prefer", "allow", "disable":
		cfg.InsecureSkipVerify = true
	default:
		return nil, malformed("sslmode must be one of " + strings.Join(sslModes, ", "))
	}
	return cfg, nil
}

// verifyChainOnly checks who signed the certificate, and not the host name.
func verifyChainOnly(cfg *tls.Config) {
	cfg.InsecureSkipVerify = true
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return errors.New("the server sent no certificate")
		}
		opts := x509.VerifyOptions{Roots: cfg.RootCAs, Intermediates: x509.NewCertPool()}
		for _, c := range state.PeerCertificates[1:] {
			opts.Intermediates.AddCert(c)
		}
		_, err := state.PeerCertificates[0].Verify(opts)
		return err
	}
}

// dial makes a connection that notices a vanished peer within seconds, even
// while it only waits for an answer.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2},
		Control: func(network, _ string, c syscall.RawConn) error {
			if strings.HasPrefix(network, "unix") {
				return nil
			}
			return c.Control(func(fd uintptr) {
				// Without it the kernel resends for a quarter of an hour; where it is refused that is all that is lost.
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(connectTimeout.Milliseconds()))
			})
		},
	}
	return d.DialContext(ctx, network, address)
}

// pgx makes a usable config only by parsing, and parsing reads the
// environment: every key is given here, so that nothing is taken from there.
const neutral = "host=localhost port=5432 user=x password=x dbname=x passfile='' sslmode=disable sslcert='' sslkey='' " +
	"sslrootcert='' sslpassword='' sslcertmode=allow sslsni=1 sslnegotiation=postgres connect_timeout=3 " +
	"target_session_attrs=any min_protocol_version=3.0 max_protocol_version=3.0 channel_binding=prefer require_auth='' " +
	"application_name=berth timezone=UTC options=''"

var neutralOnce = sync.OnceValues(func() (*pgx.ConnConfig, error) {
	// A service cannot be overridden by a key, only by its absence.
	if service, set := os.LookupEnv("PGSERVICE"); set {
		_ = os.Unsetenv("PGSERVICE")
		defer func() { _ = os.Setenv("PGSERVICE", service) }()
	}
	return pgx.ParseConfig(neutral)
})

func neutralConfig() (*pgx.ConnConfig, error) {
	cfg, err := neutralOnce()
	if err != nil {
		return nil, fmt.Errorf("preparing a connection config: %w", err)
	}
	return cfg.Copy(), nil
}
