package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/process"
)

// timed runs a check and notes how long it took.
func timed(name string, check func() Check) Check {
	began := time.Now()
	c := check()
	c.Name, c.Seconds = name, time.Since(began).Seconds()
	return c
}

const amcheckFrom = 14 // the oldest server whose tables pg_amcheck reads

// structure has pg_amcheck read every table and index, and compare each index
// with its table. What it finds is damage; what it cannot do is a doubt.
func (w *worker) structure(ctx context.Context) Check {
	program := w.amcheck()
	switch {
	case w.job.Checks.SkipStructure:
		return Check{Status: Doubtful, Message: "skipped, as the job asks"}
	case w.server.major < amcheckFrom:
		return Check{Status: Doubtful, Message: fmt.Sprintf("not possible before PostgreSQL %d", amcheckFrom)}
	case program == "":
		return Check{Status: Doubtful, Message: "there is no pg_amcheck here"}
	}
	limit, cancel := context.WithTimeout(ctx, w.job.Checks.Timeout)
	defer cancel()
	added, err := w.addAmcheck(limit)
	if err != nil {
		return Check{Status: Doubtful, Message: err.Error()}
	}
	defer w.dropAmcheck(ctx, added)
	var out bytes.Buffer
	err = process.Run(limit, process.Spec{
		Path: program, Dir: "/", User: w.server.account, Log: &out,
		Env: append(w.server.aliases.environment(), "PGCONNECT_TIMEOUT=60"),
		Args: []string{"--all", "--no-strict-names", "--heapallindexed", "--parent-check", "--jobs=" + strconv.Itoa(min(w.job.Parallel, 4)),
			"--host=" + w.server.socket, "--port=5432", "--username=" + w.server.superuser, "--maintenance-db=template1", "--no-password"},
	})
	findings := lines(out.String())
	switch {
	case err == nil:
		return Check{Status: Passed}
	case ctx.Err() != nil:
		return Check{Status: Doubtful, Message: "interrupted"}
	case limit.Err() != nil:
		return Check{Status: Doubtful, Message: fmt.Sprintf("not finished within %v", w.job.Checks.Timeout)}
	}
	const damaged = 2 // any other code is of pg_amcheck's own trouble
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == damaged {
		return Check{Status: Broken, Message: brief(findings)}
	}
	return Check{Status: Doubtful, Message: "pg_amcheck could not do it: " + brief(append(findings, err.Error()))}
}

// amcheck finds the program: that of the server's own version, or any other,
// for it works with all.
func (w *worker) amcheck() string {
	own := w.server.program("pg_amcheck")
	if _, err := os.Stat(own); err == nil {
		return own
	}
	others, err := filepath.Glob(filepath.Join(w.job.Programs, "*", "bin", "pg_amcheck"))
	if err != nil || len(others) == 0 {
		return ""
	}
	return others[len(others)-1]
}

// addAmcheck puts the extension where it is missing, and gives those databases.
func (w *worker) addAmcheck(ctx context.Context) ([]string, error) {
	all, err := w.databases(ctx)
	if err != nil {
		return nil, err
	}
	var added []string
	for _, d := range all {
		err := w.server.in(ctx, d.Name, func(c *pgx.Conn) error {
			var missing bool
			if err := c.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'amcheck')").Scan(&missing); err != nil || !missing {
				return err
			}
			added = append(added, d.Name)
			_, err := c.Exec(ctx, "CREATE EXTENSION amcheck SCHEMA pg_catalog")
			return err
		})
		if err != nil {
			return added, fmt.Errorf("preparing database %s for pg_amcheck: %w", d.Name, told(err))
		}
	}
	return added, nil
}

// dropAmcheck leaves the databases as they were. One that cannot be changed
// keeps the extension, which does nothing by itself.
func (w *worker) dropAmcheck(ctx context.Context, added []string) {
	for _, name := range added {
		_ = w.server.in(ctx, name, func(c *pgx.Conn) error {
			_, err := c.Exec(ctx, "DROP EXTENSION IF EXISTS amcheck")
			return err
		})
	}
}

// assertionLimit bounds one assertion.
const assertionLimit = "10min"

func (w *worker) assert(ctx context.Context, a Assertion, all []Database) Check {
	database := a.Database
	if main, found := application(all); database == "" && found {
		database = main.Name
	}
	if !slices.ContainsFunc(all, func(d Database) bool { return d.Name == database }) {
		return Check{Status: Broken, Message: fmt.Sprintf("there is no database %q", database)}
	}
	var holds *bool
	err := w.server.in(ctx, database, func(c *pgx.Conn) error {
		tx, err := c.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "SET LOCAL statement_timeout = '"+assertionLimit+"'")
		if err == nil {
			err = tx.QueryRow(ctx, a.SQL).Scan(&holds)
		}
		return errors.Join(err, tx.Rollback(ctx))
	})
	switch {
	case err != nil:
		return Check{Status: Broken, Message: told(err).Error()}
	case holds == nil || !*holds:
		return Check{Status: Broken, Message: "it does not hold"}
	}
	return Check{Status: Passed}
}

func lines(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
}

// brief keeps a message short enough for a status.
func brief(all []string) string {
	text := strings.Join(all[:min(len(all), 3)], "; ")
	if len(all) > 3 {
		text += fmt.Sprintf("; and %d more", len(all)-3)
	}
	return text[:min(len(text), 1000)]
}
