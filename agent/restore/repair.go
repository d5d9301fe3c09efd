package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// repair makes what came from another machine fit this one: locales, indexes
// sorted by them, and whatever would reach back to where it came from.
func (w *worker) repair(ctx context.Context) error {
	if err := w.replaceLocales(ctx); err != nil {
		return err
	}
	all, err := w.databases(ctx)
	if err != nil {
		return fault(CheckFailed, "listing the restored databases: %w", told(err))
	}
	if err := w.dropSlots(ctx); err != nil {
		return err
	}
	for _, d := range all {
		err := w.server.in(ctx, d.Name, func(c *pgx.Conn) error {
			return errors.Join(w.silence(ctx, c), w.reindex(ctx, c, d.Name))
		})
		if err != nil {
			return fault(CheckFailed, "mending database %s: %w", d.Name, told(err))
		}
	}
	return w.journal.save()
}

// replaceLocales names a locale that this machine has for each database whose
// own it does not know.
func (w *worker) replaceLocales(ctx context.Context) error {
	type row struct{ name, collate, ctype, encoding string }
	var rows []row
	err := w.server.in(ctx, "template1", func(c *pgx.Conn) error {
		got, err := c.Query(ctx, "SELECT datname, datcollate::text, datctype::text, pg_encoding_to_char(encoding) FROM pg_database")
		if err != nil {
			return err
		}
		rows, err = pgx.CollectRows(got, func(r pgx.CollectableRow) (d row, err error) {
			err = r.Scan(&d.name, &d.collate, &d.ctype, &d.encoding)
			return d, err
		})
		return err
	})
	if err != nil {
		return fault(CheckFailed, "reading locales: %w", told(err))
	}
	for _, d := range rows {
		known, err := w.knows(ctx, d.name, d.collate, d.ctype)
		if err != nil {
			return err
		}
		if known {
			continue
		}
		// Said first: whoever carries on must not take the new locale for the one it was sorted by.
		if !slices.Contains(w.journal.Resort, d.name) {
			w.journal.Resort = append(w.journal.Resort, d.name)
			w.journal.Fixes.Locales = append(w.journal.Fixes.Locales, d.name+": "+d.collate)
		}
		if err := w.journal.save(); err != nil {
			return err
		}
		locale := "C.UTF-8"
		if d.encoding != "UTF8" {
			locale = "C"
		}
		if err := w.setLocale(ctx, d.name, locale); err != nil {
			return err
		}
	}
	return nil
}

// knows reports whether one can connect under these locales without an alias.
func (w *worker) knows(ctx context.Context, database, collate, ctype string) (bool, error) {
	if slices.Contains(w.server.aliases.names, collate) || slices.Contains(w.server.aliases.names, ctype) {
		return false, nil
	}
	conn, err := w.server.connect(ctx, w.server.superuser, database)
	if err == nil {
		return true, conn.Close(ctx)
	}
	var said *pgconn.PgError
	if !errors.As(err, &said) {
		return false, fmt.Errorf("connecting to database %s: %w", database, err)
	}
	if _, foreign := unknown(said.Detail); foreign {
		return false, nil
	}
	return true, nil // it is closed, as template0 is; or broken, which the checks find
}

func (w *worker) setLocale(ctx context.Context, database, locale string) error {
	return w.server.in(ctx, "template1", func(c *pgx.Conn) error {
		change := "UPDATE pg_database SET datcollate = $1, datctype = $1 WHERE datname = $2"
		if w.server.major >= 15 {
			change = "UPDATE pg_database SET datcollate = $1, datctype = $1, datcollversion = NULL WHERE datname = $2"
		}
		if _, err := c.Exec(ctx, change, locale, database); err != nil {
			return fault(CheckFailed, "replacing the locale of database %s: %w", database, told(err))
		}
		return nil
	})
}

// dropSlots lets go of replication slots, which would keep the log for ever
// for a consumer that is not here.
func (w *worker) dropSlots(ctx context.Context) error {
	return w.server.in(ctx, "template1", func(c *pgx.Conn) error {
		var n int
		err := c.QueryRow(ctx, "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE NOT active").Scan(&n)
		if err != nil {
			return fault(CheckFailed, "dropping replication slots: %w", told(err))
		}
		w.journal.Fixes.Slots += n
		return nil
	})
}

// silence has no subscription of the source go on from here: it would take
// changes from the source's own publisher.
func (w *worker) silence(ctx context.Context, c *pgx.Conn) error {
	rows, err := c.Query(ctx, "SELECT subname FROM pg_subscription WHERE subenabled AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())")
	if err != nil {
		return fmt.Errorf("listing subscriptions: %w", told(err))
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("listing subscriptions: %w", told(err))
	}
	for _, name := range names {
		if _, err := c.Exec(ctx, "ALTER SUBSCRIPTION "+pgx.Identifier{name}.Sanitize()+" DISABLE"); err != nil {
			return fmt.Errorf("disabling subscription %s: %w", name, told(err))
		}
		w.journal.Fixes.Subscriptions++
	}
	return nil
}

// sorted finds the indexes whose order depends on a collation of the C library
// or of ICU. Those of C and POSIX never change.
const sorted = `
SELECT DISTINCT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indcollation::oid[]) AS used(oid)
JOIN pg_collation l ON l.oid = used.oid
JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i' AND c.relpersistence <> 't'
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE l.collname NOT IN ('C', 'POSIX', 'ucs_basic') ORDER BY 1`

// reindex sorts anew what the source had sorted by a locale of another version
// or name. After a reset of the log every index is suspect.
func (w *worker) reindex(ctx context.Context, c *pgx.Conn, database string) error {
	if w.journal.Fixes.ResetWAL {
		if _, err := c.Exec(ctx, "REINDEX DATABASE "+pgx.Identifier{database}.Sanitize()); err != nil {
			return fmt.Errorf("reindexing: %w", told(err))
		}
		w.journal.Fixes.Reindexed++
		return nil
	}
	changed := slices.Contains(w.journal.Resort, database)
	if w.server.major >= 15 && !changed {
		// Versions were not recorded per database before.
		err := c.QueryRow(ctx, `SELECT datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid)
			FROM pg_database WHERE datname = current_database()`).Scan(&changed)
		if err != nil {
			return fmt.Errorf("comparing versions of collations: %w", told(err))
		}
	}
	if !changed {
		return nil
	}
	rows, err := c.Query(ctx, sorted)
	if err != nil {
		return fmt.Errorf("listing sorted indexes: %w", told(err))
	}
	indexes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("listing sorted indexes: %w", told(err))
	}
	for _, index := range indexes {
		if _, err := c.Exec(ctx, "REINDEX INDEX "+index); err != nil {
			return fmt.Errorf("reindexing %s: %w", index, told(err))
		}
	}
	w.journal.Fixes.Reindexed += len(indexes)
	w.journal.Resort = slices.DeleteFunc(w.journal.Resort, func(name string) bool { return name == database })
	if w.server.major >= 15 {
		if _, err := c.Exec(ctx, "ALTER DATABASE "+pgx.Identifier{database}.Sanitize()+" REFRESH COLLATION VERSION"); err != nil {
			return fmt.Errorf("recording the collation's version: %w", told(err))
		}
	}
	return nil
}

// application finds the database that the backup is for: the largest with a
// table of its own.
func application(all []Database) (Database, bool) {
	i := slices.IndexFunc(all, func(d Database) bool { return d.Tables > 0 })
	if i < 0 {
		return Database{}, false
	}
	return all[i], true
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}
