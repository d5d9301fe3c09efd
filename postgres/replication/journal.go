package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// lockWait bounds how long a change of the tenant's tables may queue behind
// their users, who queue behind it.
const lockWait = "SET lock_timeout = '2s'"

// currentLimit is the database's own number of connections.
const currentLimit = "(SELECT datconnlimit FROM pg_database WHERE datname = current_database())"

// firstMark is the source's; the target's comes with the copy.
func firstMark(name string) string {
	return "INSERT INTO " + ident(name, "marker") + " VALUES (1, 0) ON CONFLICT DO NOTHING"
}

// begin makes the schema that carries the migration's marks: the row that
// proves the catch-up, who may write, and the effects that are done with how to
// undo them.
func (s Side) begin(ctx context.Context, name, limit, rows string) error {
	return s.within(ctx, "preparing the migration's schema", func(ctx context.Context, conn *pgx.Conn) error {
		schema := ident(name)
		return exec(ctx, conn, `
			CREATE SCHEMA IF NOT EXISTS `+schema+`;
			CREATE TABLE IF NOT EXISTS `+schema+`.marker (id int PRIMARY KEY, n bigint NOT NULL);
			CREATE TABLE IF NOT EXISTS `+schema+`.state (id int PRIMARY KEY, attempt bigint NOT NULL, outcome text NOT NULL, conn_limit int NOT NULL);
			CREATE TABLE IF NOT EXISTS `+schema+`.effect (place serial, name text PRIMARY KEY, undo text NOT NULL);
			INSERT INTO `+schema+`.state SELECT 1, 0, '', `+limit+` ON CONFLICT DO NOTHING;`+rows)
	})
}

// once runs statements and records them as one effect, in one transaction; what
// is recorded already is not run again.
func once(ctx context.Context, conn *pgx.Conn, schema, effect, undo, sql string) error {
	done := false
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+ident(schema, "effect")+" WHERE name = $1)", effect).Scan(&done); err != nil || done {
		return err
	}
	return exec(ctx, conn, fmt.Sprintf("%s;\nINSERT INTO %s (name, undo) VALUES (%s, %s)", sql, ident(schema, "effect"), literal(effect), literal(undo)))
}

// effect is a change of the tenant's own objects, and how to undo it.
type effect struct{ Name, Undo string }

// effects are those that can be undone, last first.
func (s Side) effects(ctx context.Context, name string) ([]effect, error) {
	var out []effect
	err := s.within(ctx, "reading effects", func(ctx context.Context, conn *pgx.Conn) error {
		exists := false
		if err := conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", ident(name, "effect")).Scan(&exists); err != nil || !exists {
			return err
		}
		rows, err := conn.Query(ctx, "SELECT name, undo FROM "+ident(name, "effect")+" WHERE undo <> '' ORDER BY place DESC")
		if err != nil {
			return err
		}
		out, err = pgx.CollectRows(rows, pgx.RowToStructByPos[effect])
		return err
	})
	return out, err
}

// Undo takes back what was changed of the tenant's own objects.
func (s Side) Undo(ctx context.Context, name string) error {
	effects, err := s.effects(ctx, name)
	if err != nil || len(effects) == 0 {
		return err
	}
	return s.within(ctx, "undoing changes", func(ctx context.Context, conn *pgx.Conn) error {
		for _, e := range effects {
			if err := exec(ctx, conn, lockWait, e.Undo+";\nDELETE FROM "+ident(name, "effect")+" WHERE name = "+literal(e.Name)); err != nil {
				return fmt.Errorf("undoing %s: %w", e.Name, err)
			}
		}
		return nil
	})
}

// Outcomes of an attempt to switch, as the side that was left records them.
const (
	Open     = "open"     // in the pause: closed to clients, nothing decided
	Returned = "returned" // given back to its clients
	Moved    = "moved"    // left for good: the other side serves
)

// Standing is what one side records about who may write.
type Standing struct {
	Exists  bool
	Attempt int64
	Outcome string
	Limit   int // connections, as before the migration; -1 is any number
	Fenced  bool
}

// ReadStanding reads it; a side without the migration's schema has none.
func (s Side) ReadStanding(ctx context.Context, name string) (Standing, error) {
	var out Standing
	err := s.within(ctx, "reading who serves", func(ctx context.Context, conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL, datconnlimit = 0 FROM pg_database WHERE datname = current_database()",
			ident(name, "state")).Scan(&out.Exists, &out.Fenced)
		if err != nil || !out.Exists {
			return err
		}
		err = conn.QueryRow(ctx, "SELECT attempt, outcome, conn_limit FROM "+ident(name, "state")).Scan(&out.Attempt, &out.Outcome, &out.Limit)
		if errors.Is(err, pgx.ErrNoRows) {
			out.Exists, err = false, nil
		}
		return err
	})
	return out, err
}

// ReadTarget is the target's standing; a database that is not there, or is not
// this migration's, has none.
func (p Pair) ReadTarget(ctx context.Context) (Standing, error) {
	out, err := p.To.ReadStanding(ctx, p.Name)
	return out, ignoreMissingDatabase(err)
}
