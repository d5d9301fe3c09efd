package restore

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// verifierForm is what a server stores instead of a password.
var verifierForm = regexp.MustCompile(`^SCRAM-SHA-256\$[0-9]+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+$`)

// admit decides who may log in: those of the job, with a verifier of theirs,
// and nobody by a password of the source, unless the job keeps those.
func (w *worker) admit(ctx context.Context) error {
	return w.server.in(ctx, "template1", func(c *pgx.Conn) error {
		if !w.job.KeepPasswords {
			tag, err := c.Exec(ctx, "SELECT FROM pg_authid WHERE rolpassword IS NOT NULL")
			if err != nil {
				return fault(CheckFailed, "reading logins: %w", told(err))
			}
			if _, err := c.Exec(ctx, `DO $$ DECLARE r record; BEGIN
				FOR r IN SELECT rolname FROM pg_authid WHERE rolpassword IS NOT NULL LOOP
					EXECUTE format('ALTER ROLE %I PASSWORD NULL', r.rolname);
				END LOOP; END $$`); err != nil {
				return fault(CheckFailed, "removing the source's passwords: %w", told(err))
			}
			w.journal.Fixes.Passwords += int(tag.RowsAffected())
		}
		for _, l := range w.job.Logins {
			if err := l.apply(ctx, c, w.server.major); err != nil {
				return err
			}
		}
		return nil
	})
}

func (l Login) apply(ctx context.Context, c *pgx.Conn, major int) error {
	text, err := os.ReadFile(l.VerifierFile)
	if err != nil {
		return fault(Unsuitable, "reading the verifier of login %s: %w", l.Name, err)
	}
	verifier := strings.TrimSpace(string(text))
	if !verifierForm.MatchString(verifier) {
		return fault(Unsuitable, "reading the verifier of login %s: it is not a SCRAM-SHA-256 verifier", l.Name)
	}
	name := pgx.Identifier{l.Name}.Sanitize()
	var exists bool
	if err := c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", l.Name).Scan(&exists); err != nil {
		return fault(CheckFailed, "looking for login %s: %w", l.Name, told(err))
	}
	verb := "CREATE ROLE "
	if exists {
		verb = "ALTER ROLE "
	}
	rights := " LOGIN NOSUPERUSER NOREPLICATION NOBYPASSRLS"
	const readAllFrom = 14 // pg_read_all_data
	if l.Superuser || major < readAllFrom {
		rights = " LOGIN SUPERUSER"
	}
	statements := []string{verb + name + rights + " PASSWORD '" + verifier + "'"}
	if rights == " LOGIN NOSUPERUSER NOREPLICATION NOBYPASSRLS" {
		statements = append(statements, "GRANT pg_read_all_data TO "+name)
	}
	for _, statement := range statements {
		if _, err := c.Exec(ctx, statement); err != nil {
			return fault(CheckFailed, "making login %s: %w", l.Name, told(err))
		}
	}
	return nil
}

// record leaves a row in the restored server that says what it is.
func (w *worker) record(ctx context.Context) error {
	const home = "postgres"
	err := w.server.in(ctx, "template1", func(c *pgx.Conn) error {
		var exists bool
		if err := c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", home).Scan(&exists); err != nil || exists {
			return err
		}
		_, err := c.Exec(ctx, "CREATE DATABASE "+home)
		return err
	})
	if err != nil {
		return fault(CheckFailed, "looking for database %s: %w", home, told(err))
	}
	fixes, err := json.Marshal(w.journal.Fixes)
	if err != nil {
		return fmt.Errorf("writing the record: %w", err)
	}
	return w.server.in(ctx, home, func(c *pgx.Conn) error {
		if _, err := c.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS _berth;
			CREATE TABLE IF NOT EXISTS _berth.restore_info (id int PRIMARY KEY DEFAULT 1 CHECK (id = 1), snapshot_id text NOT NULL,
				snapshot_time timestamptz NOT NULL, restored_at timestamptz NOT NULL, stage text NOT NULL,
				last_transition_time timestamptz NOT NULL, fixes jsonb NOT NULL);
			GRANT USAGE ON SCHEMA _berth TO PUBLIC; GRANT SELECT ON _berth.restore_info TO PUBLIC`); err != nil {
			return fault(CheckFailed, "making the record: %w", told(err))
		}
		_, err := c.Exec(ctx, `INSERT INTO _berth.restore_info VALUES (1, $1, $2, now(), 'ready', now(), $3)
			ON CONFLICT (id) DO UPDATE SET snapshot_id = excluded.snapshot_id, snapshot_time = excluded.snapshot_time,
			restored_at = excluded.restored_at, stage = excluded.stage, last_transition_time = now(), fixes = excluded.fixes`,
			w.result.SnapshotID, w.result.SnapshotAt, string(fixes))
		if err != nil {
			return fault(CheckFailed, "writing the record: %w", told(err))
		}
		return nil
	})
}
