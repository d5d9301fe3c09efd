package replication

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// table is one whose content is compared.
type table struct {
	Schema, Name string
	Columns      []string // of its replica identity, in the table's order; none: all of the row
	Types        []string
	Rows         float64 // the planner's estimate
}

func (t table) id() string { return ident(t.Schema, t.Name) }

// rowHash must not depend on a collation: some give equal texts equal hashes.
const rowHash = `hashtextextended((t.*)::text COLLATE "C", 0)`

// keyHash spreads rows over buckets by their key.
func (t table) keyHash() string {
	columns := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = "t." + ident(c)
	}
	return `hashtextextended(ROW(` + strings.Join(columns, ", ") + `)::text COLLATE "C", 1)`
}

// readTables lists what the publication holds, without the marker.
func readTables(ctx context.Context, conn *pgx.Conn, name string) ([]table, error) {
	rows, err := conn.Query(ctx, `SELECT n.nspname::text, c.relname::text,
			coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY(i.indkey::int2[])), '{}'),
			coalesce((SELECT array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY(i.indkey::int2[])), '{}'),
			greatest(c.reltuples, 0)
		FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_index i ON i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END
		WHERE p.pubname = $1 AND n.nspname <> $1 ORDER BY 1, 2`, name)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[table])
}

// sum is what a bucket of rows comes to. Sums, unlike exclusive ors, do not
// cancel when a row is there twice.
type sum struct {
	Rows int64
	Hash string
}

// rowsPerBucket bounds how much is read again for one row that differs.
const rowsPerBucket = 2000

// buckets is a power of two that both sides use.
func (t table) buckets() int {
	n := 1
	for n < 1<<16 && float64(n)*rowsPerBucket < t.Rows && len(t.Columns) > 0 {
		n *= 2
	}
	return n
}

func (t table) hash(ctx context.Context, conn *pgx.Conn, buckets int) (map[int64]sum, error) {
	bucket := "0::bigint"
	if buckets > 1 {
		bucket = fmt.Sprintf("%s & %d", t.keyHash(), buckets-1)
	}
	rows, err := conn.Query(ctx, "SELECT "+bucket+", count(*), sum("+rowHash+")::text FROM ONLY "+t.id()+" t GROUP BY 1")
	if err != nil {
		return nil, err
	}
	out := map[int64]sum{}
	var n int64
	var s sum
	_, err = pgx.ForEachRow(rows, []any{&n, &s.Rows, &s.Hash}, func() error { out[n] = s; return nil })
	return out, err
}

// rows reads key and hash of each row in some buckets.
func (t table) rows(ctx context.Context, conn *pgx.Conn, buckets int, some []int64) (map[string]string, error) {
	keys := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		keys[i] = "t." + ident(c) + "::text"
	}
	rows, err := conn.Query(ctx, fmt.Sprintf("SELECT ARRAY[%s], %s::text FROM ONLY %s t WHERE (%s & %d) = ANY($1::bigint[])",
		strings.Join(keys, ", "), rowHash, t.id(), t.keyHash(), buckets-1), some)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	var key []string
	var hash string
	_, err = pgx.ForEachRow(rows, []any{&key, &hash}, func() error { out[joinKey(key)] = hash; return nil })
	return out, err
}

// A key's columns are joined by what no text holds.
func joinKey(key []string) string  { return strings.Join(key, "\x00") }
func splitKey(key string) []string { return strings.Split(key, "\x00") }
func both(a, b func() error) error { var g errgroup.Group; g.Go(a); g.Go(b); return g.Wait() }
func differ(a, b map[string]string) []string {
	var out []string
	for key, hash := range a {
		if b[key] != hash {
			out = append(out, key)
		}
	}
	for key := range b {
		if _, found := a[key]; !found {
			out = append(out, key)
		}
	}
	return out
}

// compare hashes the whole table on both sides. It returns the keys of rows
// that differ, or equal false when the table has no key to name them by.
func (t table) compare(ctx context.Context, from, to *pgx.Conn) (keys []string, equal bool, err error) {
	n := t.buckets()
	var a, b map[int64]sum
	err = both(func() (err error) { a, err = t.hash(ctx, from, n); return err }, func() (err error) { b, err = t.hash(ctx, to, n); return err })
	if err != nil {
		return nil, false, fmt.Errorf("hashing %s: %w", t.id(), err)
	}
	var some []int64
	for i := range int64(n) {
		if a[i] != b[i] {
			some = append(some, i)
		}
	}
	if len(some) == 0 || len(t.Columns) == 0 {
		return nil, len(some) == 0, nil
	}
	var rowsA, rowsB map[string]string
	err = both(func() (err error) { rowsA, err = t.rows(ctx, from, n, some); return err }, func() (err error) { rowsB, err = t.rows(ctx, to, n, some); return err })
	if err != nil {
		return nil, false, fmt.Errorf("comparing rows of %s: %w", t.id(), err)
	}
	return differ(rowsA, rowsB), true, nil
}

// keysAtOnce bounds one comparison by key.
const keysAtOnce = 5000

// compareKeys says which of these keys name other rows here than there.
func (t table) compareKeys(ctx context.Context, from, to *pgx.Conn, keys []string) ([]string, error) {
	var out []string
	for len(keys) > 0 {
		part := keys[:min(len(keys), keysAtOnce)]
		keys = keys[len(part):]
		var a, b map[string]string
		err := both(func() (err error) { a, err = t.byKeys(ctx, from, part); return err }, func() (err error) { b, err = t.byKeys(ctx, to, part); return err })
		if err != nil {
			return nil, fmt.Errorf("comparing changed rows of %s: %w", t.id(), err)
		}
		out = append(out, differ(a, b)...)
	}
	return out, nil
}

// byKeys hashes the rows that each key names.
func (t table) byKeys(ctx context.Context, conn *pgx.Conn, keys []string) (map[string]string, error) {
	columns := make([][]string, len(t.Columns))
	for _, key := range keys {
		for i, value := range splitKey(key) {
			columns[i] = append(columns[i], value)
		}
	}
	var arrays, names, joins []string
	var args []any
	for i, c := range t.Columns {
		arrays = append(arrays, fmt.Sprintf("$%d::text[]", i+1))
		names = append(names, fmt.Sprintf("k%d", i))
		joins = append(joins, fmt.Sprintf("t.%s = k.k%d::%s", ident(c), i, t.Types[i]))
		args = append(args, columns[i])
	}
	rows, err := conn.Query(ctx, fmt.Sprintf("SELECT k.place, count(*)::text || ' ' || sum(%s)::text FROM unnest(%s) WITH ORDINALITY k(%s, place) JOIN ONLY %s t ON %s GROUP BY 1",
		rowHash, strings.Join(arrays, ", "), strings.Join(names, ", "), t.id(), strings.Join(joins, " AND ")), args...)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	var place int64
	var hash string
	_, err = pgx.ForEachRow(rows, []any{&place, &hash}, func() error { out[keys[place-1]] = hash; return nil })
	return out, err
}
