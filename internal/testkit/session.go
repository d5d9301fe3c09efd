package testkit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/postgres"
)

// Target is the superuser's access.
func (s *PostgresServer) Target() postgres.Target {
	return postgres.Target{Host: "127.0.0.1", Port: uint16(s.port), User: superuser, Password: superPassword, Database: "postgres", SSLMode: "disable"}
}

var names atomic.Int64

// NewDatabaseName is a name that no other test has, fit for a role as well.
// What is made under it goes with the server.
func (s *PostgresServer) NewDatabaseName(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("t%d_%s", names.Add(1), strconv.FormatInt(int64(os.Getpid()), 36))
}

// Admin is an administrator like the one of a hosted server: no superuser, but
// it may create databases and roles.
func (s *PostgresServer) Admin(t testing.TB) postgres.Target {
	t.Helper()
	target := s.Target()
	target.User, target.Password = s.NewDatabaseName(t)+"_admin", "testkit-admin"
	s.Exec(t, "", fmt.Sprintf("CREATE ROLE %s LOGIN CREATEROLE CREATEDB PASSWORD '%s'", pgx.Identifier{target.User}.Sanitize(), target.Password))
	return target
}

func (s *PostgresServer) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	target := s.Target()
	if database != "" {
		target.Database = database
	}
	return Connect(ctx, target)
}

// Connect opens a session of its own, with the search path a client has.
func Connect(ctx context.Context, target postgres.Target) (*pgx.Conn, error) {
	cfg, err := target.ConnConfig()
	if err != nil {
		return nil, err
	}
	delete(cfg.RuntimeParams, "search_path")
	return pgx.ConnectConfig(ctx, cfg)
}

// Exec runs SQL as the superuser; an empty database is the maintenance one.
func (s *PostgresServer) Exec(t testing.TB, database, sql string) {
	t.Helper()
	conn, err := s.connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Query returns the rows of a query of the superuser, each as its columns
// joined with a bar; NULL is empty.
func (s *PostgresServer) Query(t testing.TB, database, sql string) []string {
	t.Helper()
	conn, err := s.connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	var lines []string
	for _, row := range results[len(results)-1].Rows {
		lines = append(lines, string(bytes.Join(row, []byte("|"))))
	}
	return lines
}

// LogStatements has the server write every statement to its log from now on,
// and keeps that log whole. Only a server of one test should do this.
func (s *PostgresServer) LogStatements(t testing.TB) {
	t.Helper()
	s.log.mu.Lock()
	s.log.all = true
	s.log.mu.Unlock()
	s.Exec(t, "", "ALTER SYSTEM SET log_statement = 'all'")
	s.Exec(t, "", "ALTER SYSTEM SET log_min_duration_statement = 0")
	s.Exec(t, "", "SELECT pg_reload_conf()")
}

// Log is the end of what the server wrote to its log, or all since LogStatements.
func (s *PostgresServer) Log() string { return s.log.String() }
