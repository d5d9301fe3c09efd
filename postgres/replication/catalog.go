package replication

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// catalog is one line for each thing in the database: what it is, and all that
// its definition says. %s is the name of berth's own schema. Columns are
// counted without those that were dropped; privileges leave out MAINTAIN, which
// came with 17; constraints leave out NOT NULL, which 18 made one;
// partitions leave out identity, which they inherit since 17.
const catalog = `
WITH n AS (SELECT oid, nspname::text AS name, nspowner, nspacl FROM pg_namespace n WHERE %s),
ours AS (SELECT c.*, n.name AS schema, format('%%I.%%I', n.name, c.relname) AS id FROM pg_class c JOIN n ON n.oid = c.relnamespace
	WHERE NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e'))
SELECT 'schema', name, concat_ws(' ', pg_get_userbyid(nspowner), berth_acl(nspacl)) FROM n
UNION ALL SELECT 'relation', id, concat_ws(' ', relkind, relpersistence, pg_get_userbyid(relowner), relrowsecurity, relforcerowsecurity, relreplident,
	relispartition, pg_get_expr(relpartbound, oid), CASE relkind WHEN 'p' THEN pg_get_partkeydef(oid) END, reloptions, berth_acl(relacl)) FROM ours WHERE relkind IN ('r','p','v','m','f','S')
UNION ALL SELECT 'column', id || '.' || quote_ident(attname), concat_ws(' ', row_number() OVER (PARTITION BY ours.oid ORDER BY attnum), format_type(atttypid, atttypmod), attnotnull, CASE WHEN relispartition THEN '' ELSE attidentity::text END,
	attgenerated, attstorage, pg_get_expr(d.adbin, d.adrelid), (SELECT collname FROM pg_collation WHERE oid = attcollation), berth_acl(attacl))
	FROM ours JOIN pg_attribute a ON attrelid = ours.oid AND attnum > 0 AND NOT attisdropped LEFT JOIN pg_attrdef d ON d.adrelid = ours.oid AND d.adnum = attnum
	WHERE relkind IN ('r','p','v','m','f','c')
UNION ALL SELECT 'constraint', id || '.' || quote_ident(conname), concat_ws(' ', contype, convalidated, pg_get_constraintdef(k.oid)) FROM ours JOIN pg_constraint k ON conrelid = ours.oid WHERE contype <> 'n'
UNION ALL SELECT 'index', id, concat_ws(' ', pg_get_indexdef(i.indexrelid), indisreplident, indisvalid) FROM ours JOIN pg_index i ON i.indexrelid = ours.oid
UNION ALL SELECT 'trigger', id || '.' || quote_ident(tgname), concat_ws(' ', tgenabled, pg_get_triggerdef(t.oid)) FROM ours JOIN pg_trigger t ON tgrelid = ours.oid WHERE NOT tgisinternal
UNION ALL SELECT 'policy', id || '.' || quote_ident(polname), concat_ws(' ', polcmd, polpermissive, (SELECT array_agg(coalesce(rolname, 'public') ORDER BY rolname)
	FROM unnest(polroles) u LEFT JOIN pg_roles r ON r.oid = u), pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) FROM ours JOIN pg_policy ON polrelid = ours.oid
UNION ALL SELECT 'rule', id || '.' || quote_ident(rulename), concat_ws(' ', ev_type, ev_enabled) FROM ours JOIN pg_rewrite ON ev_class = ours.oid
UNION ALL SELECT 'sequence', id, concat_ws(' ', format_type(seqtypid, NULL), seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle) FROM ours JOIN pg_sequence ON seqrelid = ours.oid
UNION ALL SELECT 'statistics', n.name || '.' || quote_ident(stxname), pg_get_statisticsobjdef(s.oid) FROM pg_statistic_ext s JOIN n ON n.oid = stxnamespace
UNION ALL SELECT 'function', p.oid::regprocedure::text, concat_ws(' ', pg_get_userbyid(proowner), l.lanname, prokind, prosecdef, proleakproof, proisstrict, proretset, provolatile, proparallel,
	pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), md5(prosrc), proconfig, berth_acl(proacl))
	FROM pg_proc p JOIN n ON n.oid = pronamespace JOIN pg_language l ON l.oid = prolang WHERE NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype IN ('e','i'))
UNION ALL SELECT 'type', n.name || '.' || quote_ident(typname), concat_ws(' ', typtype, pg_get_userbyid(typowner), typnotnull, typdefault, CASE typtype WHEN 'd' THEN format_type(typbasetype, typtypmod) END,
	(SELECT array_agg(enumlabel ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid), (SELECT string_agg(pg_get_constraintdef(oid), ' ' ORDER BY conname) FROM pg_constraint WHERE contypid = t.oid AND contype <> 'n'), berth_acl(typacl))
	FROM pg_type t JOIN n ON n.oid = typnamespace WHERE typtype IN ('d','e','r') AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_type'::regclass AND e.objid = t.oid AND e.deptype = 'e')
UNION ALL SELECT 'default privileges', concat_ws(' ', pg_get_userbyid(defaclrole), (SELECT name FROM n WHERE oid = defaclnamespace), defaclobjtype), berth_acl(defaclacl) FROM pg_default_acl
UNION ALL SELECT 'extension', extname::text, (SELECT nspname::text FROM pg_namespace WHERE oid = extnamespace) FROM pg_extension
UNION ALL SELECT 'event trigger', evtname::text, concat_ws(' ', evtevent, evtenabled, evttags, evtfoid::regproc) FROM pg_event_trigger
UNION ALL SELECT 'cast', concat_ws(' ', format_type(castsource, NULL), format_type(casttarget, NULL)), concat_ws(' ', castcontext, castmethod) FROM pg_cast k WHERE k.oid >= 16384
	AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_cast'::regclass AND e.objid = k.oid AND e.deptype = 'e')
UNION ALL SELECT 'server', srvname::text, concat_ws(' ', pg_get_userbyid(srvowner), berth_acl(srvacl)) FROM pg_foreign_server
UNION ALL SELECT 'comment', o.id || coalesce('.' || (SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = o.oid AND attnum = objsubid AND objsubid > 0), ''), md5(description)
	FROM pg_description JOIN ours o ON o.oid = objoid AND classoid = 'pg_class'::regclass
UNION ALL SELECT 'comment on schema', n.name, md5(description) FROM pg_description JOIN n ON n.oid = objoid AND classoid = 'pg_namespace'::regclass
UNION ALL SELECT 'view', id, md5(pg_get_viewdef(oid)) FROM ours WHERE relkind IN ('v','m')
ORDER BY 1, 2, 3`

// acl writes privileges in a stable order, by name.
const acl = `(SELECT string_agg(concat_ws('=', coalesce(r.rolname::text, 'public'), x.privilege_type, CASE WHEN x.is_grantable THEN '*' END), ',' ORDER BY r.rolname::text, x.privilege_type)
	FROM aclexplode(%s) x LEFT JOIN pg_roles r ON r.oid = x.grantee WHERE x.privilege_type <> 'MAINTAIN')`

// thing is one line of the catalog.
type thing struct{ Kind, Name, Definition string }

// readCatalog reads it; unlike across majors, the texts compare on one server.
func (s Side) readCatalog(ctx context.Context, name string) ([]thing, error) {
	sql := fmt.Sprintf(catalog, tenantSchema(name))
	for {
		before, after, found := strings.Cut(sql, "berth_acl(")
		if !found {
			break
		}
		column, rest, _ := strings.Cut(after, ")")
		sql = before + fmt.Sprintf(acl, column) + rest
	}
	var out []thing
	err := s.within(ctx, "reading the catalog", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, sql)
		if err != nil {
			return err
		}
		out, err = pgx.CollectRows(rows, pgx.RowToStructByPos[thing])
		return err
	})
	return out, err
}

// Fingerprint changes with any change of the schema.
func (s Side) Fingerprint(ctx context.Context, name string) (string, error) {
	things, err := s.readCatalog(ctx, name)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, t := range things {
		_, _ = fmt.Fprintf(h, "%q %q %q\n", t.Kind, t.Name, t.Definition) // a hash takes every write
	}
	return hex.EncodeToString(h.Sum(nil)[:12]), nil
}

// Differences names what the target's schema lacks, has too much or has
// otherwise. The texts of views are left out: each major writes them its way.
func (p Pair) Differences(ctx context.Context) ([]string, error) {
	from, err := p.From.readCatalog(ctx, p.Name)
	if err != nil {
		return nil, err
	}
	to, err := p.To.readCatalog(ctx, p.Name)
	if err != nil {
		return nil, err
	}
	return decideDifferences(from, to), nil
}

// decideDifferences compares two catalogs.
func decideDifferences(from, to []thing) []string {
	var out []string
	there := map[[2]string]string{}
	for _, t := range to {
		there[[2]string{t.Kind, t.Name}] = t.Definition
	}
	for _, f := range from {
		key := [2]string{f.Kind, f.Name}
		definition, found := there[key]
		delete(there, key)
		switch {
		case !found:
			out = append(out, f.Kind+" "+f.Name+" is missing")
		case definition != f.Definition && f.Kind != "view":
			out = append(out, f.Kind+" "+f.Name+" differs")
		}
	}
	for _, t := range to {
		if _, extra := there[[2]string{t.Kind, t.Name}]; extra {
			out = append(out, t.Kind+" "+t.Name+" is not on the source")
		}
	}
	return out
}
