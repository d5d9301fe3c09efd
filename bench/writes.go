package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const mustWrites = 5

// measureWrites counts what a claim costs the API server until it is Ready,
// and what a claim that is Ready costs the API server and PostgreSQL.
func measureWrites(ctx context.Context, b *bench) (_ row, err error) {
	ctx, w, err := newWorld(ctx, b)
	if err != nil {
		return row{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.makeClass(ctx, class, w.admin, nil); err != nil {
		return row{}, err
	}
	c, err := w.startController(ctx)
	if err != nil {
		return row{}, err
	}
	if err := w.awaitClass(ctx); err != nil {
		return row{}, err
	}
	before, err := c.quiet(ctx)
	if err != nil {
		return row{}, err
	}
	n := b.size.writeClaims
	err = w.makeClaims(ctx, n, func(i int) *v1alpha1.DatabaseClaim { return newClaim(fmt.Sprintf("quiet-%d", i)) })
	if err != nil {
		return row{}, fmt.Errorf("applying claims: %w", err)
	}
	if err := w.awaitReady(ctx, n); err != nil {
		return row{}, err
	}
	after, err := c.quiet(ctx)
	if err != nil {
		return row{}, err
	}
	perClaim := (after - before) / float64(n)
	b.say("  %s writes per claim; now %s without changes", number(perClaim), b.size.steady)
	sql, err := w.countStatements(ctx, b.size.steady)
	if err != nil {
		return row{}, err
	}
	end, err := c.metrics(ctx)
	if err != nil {
		return row{}, err
	}
	claimHours := float64(n) * b.size.steady.Hours()
	writes, statements := (end.writes()-after)/claimHours, float64(sql.claims)/claimHours
	b.say("  %d statements for claims, %d for the sweeper's look at the server", sql.claims, sql.sweeper)
	return row{
		what:  fmt.Sprintf("writes: API writes of a claim until Ready; then per hour and claim: API writes, SQL statements (%d claims)", n),
		berth: fmt.Sprintf("%s; %s; %s", number(perClaim), number(writes), number(statements)), figures: []float64{perClaim},
		must:    fmt.Sprintf("<= %d; 0; 0", mustWrites),
		reached: perClaim <= mustWrites && writes == 0 && statements == 0,
	}, nil
}

// statements are what berth sent to a server: for its claims, and the
// sweeper's one look a minute, which is for the server whatever is on it.
type statements struct{ claims, sweeper int }

// countStatements has the server log every statement for d.
func (w *world) countStatements(ctx context.Context, d time.Duration) (statements, error) {
	at, err := os.Stat(w.serverLog())
	if err != nil {
		return statements{}, fmt.Errorf("looking at the server's log: %w", err)
	}
	if err := w.logStatements(ctx, "all"); err != nil {
		return statements{}, err
	}
	select {
	case <-ctx.Done():
		return statements{}, context.Cause(ctx)
	case <-time.After(d):
	}
	if err := w.logStatements(ctx, "none"); err != nil {
		return statements{}, err
	}
	log, err := os.Open(w.serverLog())
	if err != nil {
		return statements{}, fmt.Errorf("opening the server's log: %w", err)
	}
	defer log.Close()
	if _, err := log.Seek(at.Size(), io.SeekStart); err != nil {
		return statements{}, fmt.Errorf("reading the server's log: %w", err)
	}
	text, err := io.ReadAll(log)
	if err != nil {
		return statements{}, fmt.Errorf("reading the server's log: %w", err)
	}
	return readStatements(string(text)), nil
}

// logStatements returns once a new session sees the setting: the others see it
// before their next statement.
func (w *world) logStatements(ctx context.Context, which string) error {
	conn, err := w.superuser(ctx, w.admin.Database)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	if _, err := conn.Exec(ctx, "ALTER SYSTEM SET log_statement = '"+which+"'"); err != nil {
		return fmt.Errorf("setting log_statement: %w", err)
	}
	if _, err := conn.Exec(ctx, "SELECT pg_reload_conf()"); err != nil {
		return fmt.Errorf("reloading settings: %w", err)
	}
	return until(ctx, func() (bool, error) {
		var now string
		err := conn.QueryRow(ctx, "SHOW log_statement").Scan(&now)
		return now == which, err
	})
}

// An entry begins with the time, as log_line_prefix of the world says; what
// follows without one is the rest of its text.
var (
	entryBegins = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d `)
	ofBerth     = regexp.MustCompile(`^\S+ \S+ \S+ berth@\S* LOG:  (statement|execute [^:]*): `)
)

func readStatements(log string) statements {
	var counted statements
	begins := entryBegins.FindAllStringIndex(log, -1)
	for i, at := range begins {
		end := len(log)
		if i+1 < len(begins) {
			end = begins[i+1][0]
		}
		switch entry := log[at[0]:end]; {
		case !ofBerth.MatchString(entry):
		case strings.Contains(entry, "LIKE 'berth: %'"), strings.Contains(entry, "-- ping"):
			counted.sweeper++ // a ping comes before the statement that it tries the connection for
		default:
			counted.claims++
		}
	}
	return counted
}
