package restore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// rowsLimit is how many rows of each table are read whole, with what is stored aside.
const rowsLimit = 1000

// rows reads every table in every database. A restore without a table is no
// restore.
func (w *worker) rows(ctx context.Context) (Check, []Database) {
	limit, cancel := context.WithTimeout(ctx, w.job.Checks.Timeout)
	defer cancel()
	all, err := w.databases(limit)
	if err != nil {
		return Check{Status: Broken, Message: err.Error()}, nil
	}
	var found findings
	tables := 0
	for i := range all {
		err := w.server.in(limit, all[i].Name, func(c *pgx.Conn) error {
			list, err := tablesOf(limit, c)
			all[i].Tables = len(list)
			tables += len(list)
			for _, t := range list {
				if t.read(limit, c, all[i].Name, &found); c.IsClosed() {
					return nil // damage ended the session, and is noted
				}
			}
			return errors.Join(err, shrunk(limit, c, all[i].Name, &found))
		})
		if err != nil {
			found.damage = append(found.damage, err.Error())
		}
	}
	switch {
	case limit.Err() != nil:
		return Check{Status: Doubtful, Message: fmt.Sprintf("not finished within %v", w.job.Checks.Timeout)}, all
	case len(found.damage) > 0:
		return Check{Status: Broken, Message: brief(found.damage)}, all
	case tables == 0:
		return Check{Status: Broken, Message: "the restore contains no application database: no database has a table"}, all
	case len(found.doubts) > 0:
		return Check{Status: Doubtful, Message: brief(found.doubts)}, all
	}
	return Check{Status: Passed, Message: plural(tables, "table")}, all
}

type findings struct{ damage, doubts []string }

// table is one of the application's, with what a full index sorts it by.
type table struct{ name, order string }

// An index whose order ORDER BY can ask for: ascending or its very reverse, by
// the type's own order, over all rows.
const tableList = `
SELECT quote_ident(n.nspname) || '.' || quote_ident(t.relname), coalesce((
	SELECT pg_get_indexdef(i.indexrelid, 1, true) FROM pg_index i
	JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am a ON a.oid = x.relam AND a.amname = 'btree'
	JOIN pg_opclass o ON o.oid = i.indclass[0] AND o.opcdefault
	WHERE i.indrelid = t.oid AND i.indisvalid AND i.indpred IS NULL AND i.indoption[0] IN (0, 3)
	AND (i.indcollation[0] = 0 OR i.indkey[0] <> 0 AND i.indcollation[0] = (
		SELECT attcollation FROM pg_attribute WHERE attrelid = t.oid AND attnum = i.indkey[0]))
	ORDER BY i.indisprimary DESC, x.relpages LIMIT 1), '')
FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE t.relkind IN ('r', 'm') AND t.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
AND n.nspname <> '_berth' AND (t.relkind = 'r' OR t.relispopulated) ORDER BY 1`

func tablesOf(ctx context.Context, c *pgx.Conn) ([]table, error) {
	rows, err := c.Query(ctx, tableList)
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", told(err))
	}
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (t table, err error) {
		err = r.Scan(&t.name, &t.order)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", told(err))
	}
	return all, nil
}

// read counts the rows from the table's beginning to its end, and again along
// an index: pg_amcheck looks for each row in the index, and not for the rows
// that an index still knows while the table has lost them.
func (t table) read(ctx context.Context, c *pgx.Conn, database string, found *findings) {
	var there, known int64
	err := ask(ctx, c, "SELECT count(t::text) FROM (SELECT * FROM ONLY "+t.name+fmt.Sprintf(" LIMIT %d) t", rowsLimit), &there)
	if err == nil {
		err = ask(ctx, c, "SELECT count(*) FROM ONLY "+t.name, &there, "indexscan", "indexonlyscan", "bitmapscan")
	}
	if err == nil && t.order != "" {
		err = ask(ctx, c, "SELECT count(*) FROM (SELECT 1 FROM ONLY "+t.name+" ORDER BY "+t.order+" OFFSET 0) t", &known, "seqscan", "bitmapscan", "indexonlyscan", "sort")
		if err == nil && known != there {
			err = fmt.Errorf("it has %d rows, and its index knows %d", there, known)
		}
	}
	if err != nil {
		found.damage = append(found.damage, fmt.Sprintf("%s in %s: %s", t.name, database, told(err)))
	}
}

// ask gets one number, without the ways of planning that are turned off.
func ask(ctx context.Context, c *pgx.Conn, query string, answer *int64, without ...string) error {
	return pgx.BeginTxFunc(ctx, c, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		for _, way := range without {
			if _, err := tx.Exec(ctx, "SET LOCAL enable_"+way+" = off"); err != nil {
				return err
			}
		}
		return tx.QueryRow(ctx, query).Scan(answer)
	})
}

// shrunk finds what has fewer pages than the catalog has recorded. A crash
// between the two may leave that too, so it is a doubt.
func shrunk(ctx context.Context, c *pgx.Conn, database string, found *findings) error {
	rows, err := c.Query(ctx, `SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'm', 'i', 't') AND relpersistence = 'p'
		AND relpages > pg_relation_size(oid) / current_setting('block_size')::int ORDER BY 1`)
	if err != nil {
		return fmt.Errorf("comparing sizes: %w", told(err))
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("comparing sizes: %w", told(err))
	}
	for _, name := range names {
		found.doubts = append(found.doubts, fmt.Sprintf("%s in %s has fewer pages than the catalog recorded", name, database))
	}
	return nil
}
