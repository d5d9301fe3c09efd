package replication

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ReadSurvey looks at both servers. The target's database need not exist.
func (p Pair) ReadSurvey(ctx context.Context) (Survey, error) {
	var s Survey
	err := p.From.within(ctx, "surveying the source", func(ctx context.Context, conn *pgx.Conn) (err error) {
		if s.From, err = p.From.readServer(ctx, conn, p.Name); err != nil {
			return err
		}
		if !s.From.Superuser { // who cannot read all of it; the finding says so
			s.Database.Name, s.Database.Limit, s.Database.Collate = p.From.Admin.Database, -1, "C"
			return nil
		}
		return s.Database.read(ctx, conn, p.Name)
	})
	if err != nil {
		return s, err
	}
	names := []string{}
	for _, r := range s.Database.Roles {
		names = append(names, r.Name)
	}
	err = p.To.outside(ctx, "surveying the target", func(ctx context.Context, conn *pgx.Conn) (err error) {
		if s.To, err = p.To.readServer(ctx, conn, p.Name); err != nil {
			return err
		}
		if s.To.Superuser {
			if s.ToRoles, err = readRoles(ctx, conn, names, p.Name); err != nil {
				return err
			}
		}
		return conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1),
			ARRAY(SELECT name::text FROM pg_available_extensions), ARRAY(SELECT collcollate::text FROM pg_collation WHERE collprovider = 'c' AND collcollate IS NOT NULL UNION SELECT datcollate::text FROM pg_database),
			ARRAY(SELECT spcname::text FROM pg_tablespace)`, p.To.Admin.Database).Scan(&s.Taken, &s.Available, &s.Collations, &s.Tablespace)
	})
	return s, err
}

func (s Side) readServer(ctx context.Context, conn *pgx.Conn, name string) (out Server, err error) {
	err = conn.QueryRow(ctx, `
		SELECT current_setting('server_version_num')::int, rolsuper, current_setting('wal_level'),
			current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots WHERE NOT starts_with(slot_name::text, $1))::int,
			current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication WHERE NOT starts_with(application_name, $1))::int,
			current_setting('max_logical_replication_workers')::int, current_setting('max_worker_processes')::int,
			(SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
		FROM pg_roles WHERE rolname = current_user`, name+"_").Scan(&out.Version, &out.Superuser, &out.WALLevel,
		&out.SlotsFree, &out.SendersFree, &out.LogicalWorkers, &out.Processes, &out.KeepSize)
	out.Verified = s.Admin.SSLMode == "verify-ca" || s.Admin.SSLMode == "verify-full"
	out.LinkVerifiable = s.RootCAFile != ""
	return out, err
}

// moving stands in a query for the condition on schemas n that move.
const moving = "<moving>"

// lists are the names of Contents that one query each gives.
var lists = []struct {
	into func(*Contents) *[]string
	sql  string
}{
	{func(c *Contents) *[]string { return &c.Full }, relations("c.relkind = 'r' AND c.relreplident = 'f' AND c.relpersistence = 'p'")},
	{func(c *Contents) *[]string { return &c.Unlogged }, relations("c.relkind IN ('r', 'S') AND c.relpersistence = 'u' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i'))")},
	{func(c *Contents) *[]string { return &c.Matviews }, relations("c.relkind = 'm'")},
	{func(c *Contents) *[]string { return &c.Invalid }, relations("c.relkind = 'i' AND EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = c.oid AND NOT i.indisvalid)")},
	{func(c *Contents) *[]string { return &c.AlwaysTriggers }, `SELECT format('%I on %I.%I', t.tgname, n.nspname, c.relname) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
		JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal AND ` + moving + ` ORDER BY 1`},
	{func(c *Contents) *[]string { return &c.DDL }, `SELECT DISTINCT format('%I.%I', n.nspname, c.relname) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE l.granted AND l.mode IN ('AccessExclusiveLock', 'ShareRowExclusiveLock') AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND ` + moving + ` ORDER BY 1`},
	{func(c *Contents) *[]string { return &c.ForeignServers }, "SELECT srvname::text FROM pg_foreign_server ORDER BY 1"},
	{func(c *Contents) *[]string { return &c.Extensions }, "SELECT extname::text FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1"},
	{func(c *Contents) *[]string { return &c.ConfigTables }, "SELECT DISTINCT u::regclass::text FROM pg_extension, unnest(extconfig) u WHERE pg_relation_size(u) > 0 ORDER BY 1"},
	{func(c *Contents) *[]string { return &c.EventTriggers }, "SELECT evtname::text FROM pg_event_trigger ORDER BY 1"},
	{func(c *Contents) *[]string { return &c.Tablespaces }, "SELECT DISTINCT s.spcname::text FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE s.spcname <> 'pg_global' ORDER BY 1"},
	{func(c *Contents) *[]string { return &c.Prepared }, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY 1"},
	{func(c *Contents) *[]string { return &c.Collations }, "SELECT collname::text FROM pg_collation WHERE collversion IS DISTINCT FROM pg_collation_actual_version(oid) AND collversion IS NOT NULL ORDER BY 1"},
}

func relations(where string) string {
	return `SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ` + where + ` AND ` + moving + ` ORDER BY 1`
}

func (c *Contents) read(ctx context.Context, conn *pgx.Conn, name string) (err error) {
	if c.Roles, err = readRoles(ctx, conn, nil, name); err != nil {
		return err
	}
	for _, l := range lists {
		sql := strings.ReplaceAll(l.sql, moving, tenantSchema(name))
		rows, err := conn.Query(ctx, sql)
		if err != nil {
			return err
		}
		if *l.into(c), err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return err
		}
	}
	if c.NoIdentity, err = readNoIdentity(ctx, conn, name); err != nil {
		return err
	}
	var oldest float64
	err = conn.QueryRow(ctx, `
		SELECT d.datname::text, pg_get_userbyid(d.datdba)::text, d.datlocprovider::text, d.datcollate::text, d.datconnlimit, pg_database_size(d.oid),
			(SELECT count(*) FROM pg_largeobject_metadata),
			ARRAY(SELECT subname::text FROM pg_subscription WHERE subdbid = d.oid AND NOT starts_with(subname::text, $1 || '_') ORDER BY 1),
			ARRAY(SELECT pubname::text FROM pg_publication WHERE pubname <> $1 ORDER BY 1),
			coalesce((SELECT extract(epoch FROM max(clock_timestamp() - xact_start)) FROM pg_stat_activity WHERE datname = d.datname AND backend_type = 'client backend' AND pid <> pg_backend_pid()), 0)::float8
		FROM pg_database d WHERE d.datname = current_database()`, name).Scan(&c.Name, &c.Owner, &c.Provider, &c.Collate, &c.Limit, &c.Bytes,
		&c.LargeObjects, &c.Subscriptions, &c.Publications, &oldest)
	c.Oldest = time.Duration(oldest * float64(time.Second))
	return err
}

// readNoIdentity finds, for each table that names its rows by nothing, the
// smallest unique index that could.
func readNoIdentity(ctx context.Context, conn *pgx.Conn, name string) ([]Identity, error) {
	rows, err := conn.Query(ctx, `SELECT format('%I.%I', n.nspname, c.relname), CASE c.relreplident WHEN 'n' THEN 'NOTHING' ELSE 'DEFAULT' END, coalesce((
			SELECT x.relname::text FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
			WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
				AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts-1]) AND NOT a.attnotnull)
			ORDER BY i.indnkeyatts, x.relname LIMIT 1), '')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE `+publishable(name)+` AND (c.relreplident = 'n' OR c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
			OR c.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)) ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Identity])
}

// giveIdentities has every table name its rows, so that the publication makes
// no client's update fail. What was before is recorded, and comes back at the
// end. A table that is busy for 2 s is an error, to be tried again.
func (s Side) giveIdentities(ctx context.Context, name string, o Options) error {
	return s.within(ctx, "giving tables an identity", func(ctx context.Context, conn *pgx.Conn) error {
		tables, err := readNoIdentity(ctx, conn, name)
		if err != nil {
			return err
		}
		for _, t := range tables {
			to := "FULL"
			switch {
			case t.Index != "":
				to = "USING INDEX " + ident(t.Index)
			case !o.FullIdentity:
				return fmt.Errorf("table %s has no key", t.Table)
			}
			if err := exec(ctx, conn, lockWait); err != nil {
				return err
			}
			alter := "ALTER TABLE " + t.Table + " REPLICA IDENTITY "
			if err := once(ctx, conn, name, "identity "+t.Table, alter+t.Before, alter+to); err != nil {
				return fmt.Errorf("table %s: %w", t.Table, err)
			}
		}
		return nil
	})
}

// Hazards are what would be lost in a switch, and what would make it long.
type Hazards struct {
	Prepared     int
	LargeObjects int64
	Oldest       time.Duration // transaction that is open now
}

// ReadHazards looks at the side that would be left.
func (s Side) ReadHazards(ctx context.Context) (Hazards, error) {
	var out Hazards
	var oldest float64
	err := s.within(ctx, "looking for hazards", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()), (SELECT count(*) FROM pg_largeobject_metadata),
			coalesce((SELECT extract(epoch FROM max(clock_timestamp() - xact_start)) FROM pg_stat_activity
				WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()), 0)::float8`).Scan(&out.Prepared, &out.LargeObjects, &oldest)
	})
	out.Oldest = time.Duration(oldest * float64(time.Second))
	return out, err
}
