// Package replication moves one database between two servers: schema, rows,
// sequences and roles, and the switch of who may write. It holds the SQL of a
// migration; what happens in which order, and to the clients, is the caller's.
//
// Every function may be called again after a crash at any point. It needs a
// superuser on both servers and PostgreSQL 15 or newer.
package replication

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/postgres"
)

// Side is one of the two databases.
type Side struct {
	// Admin is a superuser's access; Database names the tenant's database.
	Admin postgres.Target
	// Host and Port are where the other server reaches this one; empty is Admin's.
	Host string
	Port uint16
	// RootCAFile is where the other server keeps the authority that signed this
	// one's certificate. A link over verify-ca or verify-full needs it.
	RootCAFile string
}

// Pair is a database and where it is going. Name must be unique on both
// servers, have at most 40 bytes, and hold only what identifiers hold unquoted.
type Pair struct {
	Name     string
	From, To Side
	Tools    Tools
	// NewSecret makes the password of a link's login and its verifier.
	NewSecret func() (password, verifier string)
}

// Swapped is the way back.
func (p Pair) Swapped() Pair {
	p.From, p.To = p.To, p.From
	return p
}

// Link names the subscription, the slot and the login of one direction. Each
// reversal uses the next number: an origin is never used twice.
func (p Pair) Link(number int64) string { return p.Name + "_" + strconv.FormatInt(number, 10) }

// connectTimeout bounds one attempt to open a session.
const connectTimeout = 5 * time.Second

// Open opens a session in the side's database, with settings under which every
// major writes a value the same way. It commits durably: the cut between two
// directions rests on what is on disk.
func (s Side) Open(ctx context.Context) (*pgx.Conn, error) { return s.open(ctx, s.Admin.Database) }

// maintenance opens a session outside the tenant's database.
func (s Side) maintenance(ctx context.Context) (*pgx.Conn, error) { return s.open(ctx, "postgres") }

func (s Side) open(ctx context.Context, database string) (*pgx.Conn, error) {
	cfg, err := s.config(database)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening a session on %s: %w", s.Admin.Address(), err)
	}
	return conn, nil
}

func (s Side) config(database string) (*pgx.ConnConfig, error) {
	t := s.Admin
	t.Database = database
	cfg, err := t.ConnConfig()
	if err != nil {
		return nil, err
	}
	for key, value := range map[string]string{
		"application_name": "berth migration", "timezone": "UTC", "datestyle": "ISO, YMD", "intervalstyle": "postgres",
		"extra_float_digits": "1", "bytea_output": "hex", "lc_monetary": "C", "xmloption": "content",
		"synchronous_commit": "local", "statement_timeout": "0", "lock_timeout": "0",
		"idle_in_transaction_session_timeout": "0", "client_min_messages": "notice", "row_security": "off",
	} {
		cfg.RuntimeParams[key] = value
	}
	return cfg, nil
}

// within runs work in a session of its own.
func (s Side) within(ctx context.Context, what string, work func(context.Context, *pgx.Conn) error) error {
	conn, err := s.Open(ctx)
	if err == nil {
		defer closeConn(conn)
		err = work(ctx, conn)
	}
	if err != nil {
		return fmt.Errorf("%s on %s: %w", what, s.Admin.Address(), err)
	}
	return nil
}

// outside is within, in the maintenance database.
func (s Side) outside(ctx context.Context, what string, work func(context.Context, *pgx.Conn) error) error {
	conn, err := s.maintenance(ctx)
	if err == nil {
		defer closeConn(conn)
		err = work(ctx, conn)
	}
	if err != nil {
		return fmt.Errorf("%s on %s: %w", what, s.Admin.Address(), err)
	}
	return nil
}

// closeConn says goodbye, but does not wait for a server that may be gone.
func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_ = conn.Close(ctx) // nothing depends on the goodbye
}

// exec runs statements one by one, each in its own transaction.
func exec(ctx context.Context, conn *pgx.Conn, statements ...string) error {
	for _, sql := range statements {
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}

// quietly keeps what statements say out of the server's log: they hold a secret.
func quietly(ctx context.Context, conn *pgx.Conn, statements ...string) error {
	err := exec(ctx, conn, "SET log_statement = 'none'", "SET log_min_duration_statement = -1", "SET log_min_error_statement = 'panic'")
	if err != nil {
		return err
	}
	return exec(ctx, conn, statements...)
}

func ident(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

// literal relies on standard_conforming_strings, which every session sets.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// tenantSchema is true of schemas that move; berth's own, named by name, stays.
func tenantSchema(name string) string {
	return "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND n.nspname <> " + literal(name)
}

// publishable are the tables whose rows move: what an extension made comes
// with the extension.
func publishable(name string) string {
	return `c.relkind = 'r' AND c.relpersistence = 'p' AND ` + tenantSchema(name) + ` AND NOT EXISTS (SELECT FROM pg_depend e
		WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')`
}
