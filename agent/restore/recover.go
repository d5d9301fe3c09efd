package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-dev/berth/process"
)

// recover brings the server up. When PostgreSQL cannot, its log may be thrown
// away, if the job allows that: the journal says so first, for good.
func (w *worker) recover(ctx context.Context) (Check, error) {
	began := time.Now()
	err := w.startKnown(ctx)
	if isOf(w.server.blame(err), RecoveryFailed) && w.job.AllowReset {
		cause := err
		if err = w.resetLog(ctx); err == nil {
			err = w.startKnown(ctx)
		}
		if err != nil {
			err = fmt.Errorf("%w (after pg_resetwal; before it: %w)", err, cause)
		}
	}
	w.result.RecoverySeconds = time.Since(began).Seconds()
	if err != nil {
		return Check{}, err
	}
	if w.journal.Fixes.ResetWAL {
		return Check{Name: CheckRecovery, Status: Doubtful, Message: "PostgreSQL came up only after pg_resetwal", Seconds: w.result.RecoverySeconds}, nil
	}
	return Check{Name: CheckRecovery, Status: Passed, Seconds: w.result.RecoverySeconds}, nil
}

// maxAliases bounds the locales that one database can need: one to sort by, one for letters.
const maxAliases = 4

// startKnown starts the server and gets into template1, under aliases for the
// locales that this machine does not know.
func (w *worker) startKnown(ctx context.Context) error {
	for range maxAliases {
		if err := w.server.start(ctx); err != nil {
			return err
		}
		err := w.findSuperuser(ctx)
		var said *pgconn.PgError
		if !errors.As(err, &said) {
			return err
		}
		locale, found := unknown(said.Detail)
		if !found {
			return fault(RecoveryFailed, "connecting to the restored server: %w", said)
		}
		if err := errors.Join(w.server.stop(), w.server.aliases.add(locale)); err != nil {
			return err
		}
	}
	return fault(Unsuitable, "replacing locales: the database needs more than %d", maxAliases)
}

// findSuperuser learns the name of who made the cluster. It is postgres, mostly.
func (w *worker) findSuperuser(ctx context.Context) error {
	const bootstrap = 10 // its oid in every version
	w.server.superuser = "postgres"
	conn, err := w.server.connect(ctx, w.server.superuser, "template1")
	var said *pgconn.PgError
	if errors.As(err, &said) && (said.Code == "28000" || said.Code == "28P01") {
		if w.server.superuser, err = w.askAlone(ctx, "SELECT rolname FROM pg_roles WHERE oid = 10"); err != nil {
			return err
		}
		conn, err = w.server.connect(ctx, w.server.superuser, "template1")
	}
	if err != nil {
		return fmt.Errorf("connecting to the restored server: %w", told(err))
	}
	var name string
	err = conn.QueryRow(ctx, "SELECT rolname FROM pg_roles WHERE oid = $1", bootstrap).Scan(&name)
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return fault(CheckFailed, "reading the restored catalog: %w", told(err))
	}
	w.server.superuser = name
	return nil
}

// askAlone asks a server that nobody can log into, in its single-user mode,
// for one value. The server is up before and after.
func (w *worker) askAlone(ctx context.Context, query string) (string, error) {
	if err := w.server.stopCleanly(); err != nil {
		return "", err
	}
	var out bytes.Buffer
	err := process.Run(ctx, process.Spec{
		Path: "/bin/sh", Args: []string{"-c", `printf '%s\n' "$1" | exec "$2" --single -D "$3" -c fsync=off template1`, "sh", query, w.server.program("postgres"), w.server.data},
		Dir: "/", User: w.server.account, Env: w.server.aliases.environment(), Log: &out,
	})
	if err != nil {
		return "", fault(RecoveryFailed, "asking the restored server alone: %w", err)
	}
	for line := range strings.SplitSeq(out.String(), "\n") {
		if _, value, found := strings.Cut(line, ` = "`); found {
			name, _, _ := strings.Cut(value, `"`)
			return name, w.server.start(ctx)
		}
	}
	return "", fault(RecoveryFailed, "asking the restored server alone: it gives no answer")
}

// resetLog throws the write-ahead log away. What it held is lost, so the
// result can never be called verified again, whoever carries on.
func (w *worker) resetLog(ctx context.Context) error {
	w.journal.Fixes.ResetWAL = true
	if err := w.journal.save(); err != nil {
		return err
	}
	var out bytes.Buffer
	err := process.Run(ctx, process.Spec{
		Path: w.server.program("pg_resetwal"), Args: []string{"-f", "-D", w.server.data},
		Dir: "/", User: w.server.account, Env: w.server.aliases.environment(), Log: &out,
	})
	if err != nil {
		return fault(RecoveryFailed, "resetting the write-ahead log: %s", lastLine(out.String(), err))
	}
	return nil
}

func lastLine(text string, err error) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return last[:min(len(last), 300)]
	}
	return err.Error()
}

// databases lists those one can connect to, the largest first.
func (w *worker) databases(ctx context.Context) ([]Database, error) {
	var all []Database
	err := w.server.in(ctx, "template1", func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, "SELECT datname, pg_database_size(oid) FROM pg_database WHERE datallowconn ORDER BY 2 DESC, 1")
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (d Database, err error) {
			err = r.Scan(&d.Name, &d.Bytes)
			return d, err
		})
		return err
	})
	return all, err
}
