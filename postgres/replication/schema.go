package replication

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// ErrChanged is in the chain when the source's schema is not what was copied.
var ErrChanged = errors.New("the schema of the source has changed")

// Names of effects on the target.
const (
	schemaCopied = "schema"
	restCopied   = "rest"
)

// builders is how many tables have their indexes built at once.
const builders = 2

// Begin does all that comes before rows are copied: it marks the source, gives
// its tables an identity, publishes them, and makes the target's database.
func (p Pair) Begin(ctx context.Context, o Options) error {
	if err := p.From.begin(ctx, p.Name, currentLimit, firstMark(p.Name)); err != nil {
		return err
	}
	if err := p.From.giveIdentities(ctx, p.Name, o); err != nil {
		return err
	}
	if err := p.From.Publish(ctx, p.Name); err != nil {
		return err
	}
	return p.CopySchema(ctx)
}

// CopySchema makes the target database, closed to all but superusers, with the
// tables and keys of the source. A target that is half made is made anew; a
// database that this migration did not make is never touched.
func (p Pair) CopySchema(ctx context.Context) error {
	standing, err := p.To.ReadStanding(ctx, p.Name)
	if ignoreMissingDatabase(err) != nil {
		return err
	}
	if standing.Exists {
		if done, err := p.To.did(ctx, p.Name, schemaCopied); err != nil || done {
			return err
		}
	}
	if err := p.CopyRoles(ctx); err != nil {
		return err
	}
	if err := p.createDatabase(ctx); err != nil {
		return err
	}
	source, err := p.From.ReadStanding(ctx, p.Name)
	if err != nil {
		return err
	}
	if err := p.To.begin(ctx, p.Name, strconv.Itoa(source.Limit), ""); err != nil {
		return err
	}
	before, err := p.From.Fingerprint(ctx, p.Name)
	if err != nil {
		return err
	}
	a, err := dump(ctx, p.Tools, p.From, p.Name)
	if err != nil {
		return err
	}
	defer a.close()
	if after, err := p.From.Fingerprint(ctx, p.Name); err != nil || after != before {
		return errors.Join(err, changedIf(after != before))
	}
	return p.restoreKeys(ctx, a, before)
}

func changedIf(changed bool) error {
	if changed {
		return ErrChanged
	}
	return nil
}

// restoreKeys makes everything that rows need on arrival: without its key, the
// first change of a row would stop the link.
func (p Pair) restoreKeys(ctx context.Context, a *archive, fingerprint string) error {
	pre, err := a.script(ctx, "pre-data", nil)
	if err != nil {
		return err
	}
	groups, err := p.group(ctx, a)
	if err != nil {
		return err
	}
	keys, err := a.script(ctx, "post-data", groups.keys)
	if err != nil {
		return err
	}
	effects, err := p.From.effects(ctx, p.Name)
	if err != nil {
		return err
	}
	record := ""
	for _, e := range append(effects, effect{Name: "fingerprint " + fingerprint}) { // what was changed on the source came along
		record += fmt.Sprintf("INSERT INTO %s (name, undo) VALUES (%s, %s);\n", ident(p.Name, "effect"), literal(e.Name), literal(e.Undo))
	}
	return p.To.within(ctx, "making tables and keys", func(ctx context.Context, conn *pgx.Conn) error {
		return once(ctx, conn, p.Name, schemaCopied, "", pre+";\n"+keys+";\n"+record)
	})
}

// groups are the parts of post-data, in the order they are restored.
type groups struct {
	keys    []entry
	indexes map[uint32][]entry // by table
	rest    []entry
}

func (p Pair) group(ctx context.Context, a *archive) (groups, error) {
	out := groups{keys: []entry{}, indexes: map[uint32][]entry{}, rest: []entry{}}
	entries, err := a.entries(ctx)
	if err != nil {
		return out, err
	}
	tables, identity := map[uint32]uint32{}, map[uint32]bool{}
	err = p.From.within(ctx, "reading indexes", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT indexrelid, indrelid, indisreplident FROM pg_index")
		if err != nil {
			return err
		}
		var index, table uint32
		var replident bool
		_, err = pgx.ForEachRow(rows, []any{&index, &table, &replident}, func() error {
			tables[index], identity[index] = table, replident
			return nil
		})
		return err
	})
	for _, e := range entries {
		const relations = 1259 // pg_class
		switch table := tables[e.oid]; {
		case strings.HasPrefix(e.kind, "CONSTRAINT ") || e.catalog == relations && identity[e.oid]:
			out.keys = append(out.keys, e)
		case e.catalog == relations && strings.HasPrefix(e.kind, "INDEX ") && table != 0:
			out.indexes[table] = append(out.indexes[table], e)
		default:
			out.rest = append(out.rest, e)
		}
	}
	return out, err
}

// CopyRest builds what rows did not need on arrival: indexes, foreign keys,
// triggers, policies and default privileges, and fills materialized views.
func (p Pair) CopyRest(ctx context.Context) error {
	if done, err := p.To.did(ctx, p.Name, restCopied); err != nil || done {
		return err
	}
	if err := p.CheckUnchanged(ctx); err != nil {
		return err
	}
	a, err := dump(ctx, p.Tools, p.From, p.Name)
	if err != nil {
		return err
	}
	defer a.close()
	parts, err := p.group(ctx, a)
	if err != nil {
		return err
	}
	if err := p.buildIndexes(ctx, a, parts.indexes); err != nil {
		return err
	}
	rest, err := a.script(ctx, "post-data", parts.rest)
	if err != nil {
		return err
	}
	err = p.To.within(ctx, "making constraints, triggers and grants", func(ctx context.Context, conn *pgx.Conn) error {
		if err := once(ctx, conn, p.Name, "constraints", "", rest); err != nil {
			return err
		}
		if err := exec(ctx, conn, "RESET search_path", "VACUUM ANALYZE"); err != nil {
			return err
		}
		return refresh(ctx, conn)
	})
	if err != nil {
		return err
	}
	if err := p.copySettings(ctx); err != nil {
		return err
	}
	return p.To.within(ctx, "recording the schema", func(ctx context.Context, conn *pgx.Conn) error {
		return once(ctx, conn, p.Name, restCopied, "", "SELECT 1")
	})
}

// buildIndexes gives each table a session and an effect of its own.
func (p Pair) buildIndexes(ctx context.Context, a *archive, indexes map[uint32][]entry) error {
	type job struct{ effect, sql string }
	var jobs []job
	for table, entries := range indexes {
		sql, err := a.script(ctx, "post-data", entries)
		if err != nil {
			return err
		}
		jobs = append(jobs, job{fmt.Sprintf("indexes of %d", table), sql})
	}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(builders)
	for _, j := range jobs {
		work.Go(func() error {
			return p.To.within(ctx, "building indexes", func(ctx context.Context, conn *pgx.Conn) error {
				return once(ctx, conn, p.Name, j.effect, "", j.sql)
			})
		})
	}
	return work.Wait()
}

// refresh fills the materialized views that the source has filled; one may
// read another, which then has the lower oid.
func refresh(ctx context.Context, conn *pgx.Conn) error {
	var views []string
	err := conn.QueryRow(ctx, `SELECT ARRAY(SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'm' ORDER BY c.oid)`).Scan(&views)
	if err != nil {
		return err
	}
	for _, v := range views {
		if err := exec(ctx, conn, "REFRESH MATERIALIZED VIEW "+v); err != nil {
			return fmt.Errorf("refreshing %s: %w", v, err)
		}
	}
	return nil
}

// did reports whether an effect is recorded.
func (s Side) did(ctx context.Context, name, effect string) (bool, error) {
	done := false
	err := s.within(ctx, "reading effects", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+ident(name, "effect")+" WHERE name = $1)", effect).Scan(&done)
	})
	return done, err
}

// CheckUnchanged is ErrChanged once the source's schema differs from what was
// copied, or from what the copy is on the target.
func (p Pair) CheckUnchanged(ctx context.Context) error {
	now, err := p.From.Fingerprint(ctx, p.Name)
	if err != nil {
		return err
	}
	same, err := p.To.did(ctx, p.Name, "fingerprint "+now)
	return errors.Join(err, changedIf(err == nil && !same))
}
