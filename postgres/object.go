package postgres

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Object is one thing in a database that has an owner. Objects that belong to
// an extension or to the system are never listed.
type Object struct {
	Kind       string // as in ALTER: TABLE, SEQUENCE, ROUTINE, TYPE, ...
	Schema     string // empty for what lives in none
	Identity   string // quoted, ready for SQL
	Owner      string
	Permitted  bool     // the administrator may act as the owner
	Superuser  bool     // the owner is one; read only for a take-over
	Privileges []string // that the role in question holds by its own name
}

// Schema is one schema and what the role in question holds on it.
type Schema struct {
	Name       string
	Owner      string
	Permitted  bool
	Privileges []string
	Creators   []string // roles the administrator may act as, that make or own objects here
}

// Default is a default privilege in one schema.
type Default struct {
	Creator, Schema string
	Kind            string // TABLES, SEQUENCES or FUNCTIONS
	Privileges      []string
}

const userSchema = `n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`

// catalogs are the places objects with an owner live in. Sequences that belong
// to a column follow their table, row types and array types their origin; the
// constructors of a range type are the system's.
var catalogs = []struct{ table, prefix, where string }{
	{"pg_class", "rel", `o.relkind IN ('r','p','v','m','f','S','c') AND NOT (o.relkind = 'S' AND EXISTS (SELECT FROM pg_depend q
		WHERE q.classid = 'pg_class'::regclass AND q.objid = o.oid AND q.refclassid = 'pg_class'::regclass AND q.deptype IN ('a','i')))`},
	{"pg_proc", "pro", "true"},
	{"pg_type", "typ", "o.typtype IN ('b','d','e','r') AND o.typrelid = 0 AND o.typelem = 0"},
	{"pg_collation", "coll", "true"},
	{"pg_conversion", "con", "true"},
	{"pg_operator", "opr", "true"},
	{"pg_opclass", "opc", "true"},
	{"pg_opfamily", "opf", "true"},
	{"pg_statistic_ext", "stx", "true"},
	{"pg_ts_config", "cfg", "true"},
	{"pg_ts_dict", "dict", "true"},
}

// ownedQuery lists every object that is not owned by $1, schemas first: the
// new owner needs them before their content.
var ownedQuery = func() string {
	parts := []string{`SELECT 0 AS rank, 'pg_namespace'::regclass AS class, n.oid, n.nspname AS schema, n.nspowner AS owner FROM pg_namespace n
		WHERE ` + userSchema + ` AND pg_get_userbyid(n.nspowner) <> 'pg_database_owner'`,
		`SELECT 2, 'pg_largeobject'::regclass, l.oid, '', l.lomowner FROM pg_largeobject_metadata l`}
	for _, c := range catalogs {
		parts = append(parts, fmt.Sprintf(`SELECT 1, '%[1]s'::regclass, o.oid, n.nspname, o.%[2]sowner FROM %[1]s o
			JOIN pg_namespace n ON n.oid = o.%[2]snamespace WHERE %[4]s AND %[3]s`, c.table, c.prefix, c.where, userSchema))
	}
	return `SELECT i.type, x.schema::text, i.identity, r.rolname::text, pg_has_role(r.oid, 'USAGE'), r.rolsuper
		FROM (` + strings.Join(parts, " UNION ALL ") + `) x JOIN pg_roles r ON r.oid = x.owner, pg_identify_object(x.class, x.oid, 0) i
		WHERE r.rolname <> $1 AND NOT EXISTS (SELECT FROM pg_depend d
			WHERE d.classid = x.class AND d.objid = x.oid AND (d.deptype = 'e' OR d.deptype = 'i' AND x.class = 'pg_proc'::regclass))
		ORDER BY x.rank, i.type, i.identity`
}()

// words turns what the catalog calls a thing into what ALTER calls it.
var words = map[string]string{
	"function": "ROUTINE", "procedure": "ROUTINE", "aggregate": "ROUTINE", "composite type": "TYPE", "domain": "DOMAIN",
	"statistics object": "STATISTICS",
}

func queueForeign(batch *pgx.Batch, owner string, into *[]Object) {
	batch.Queue(ownedQuery, owner).Query(func(rows pgx.Rows) error {
		var o Object
		_, err := pgx.ForEachRow(rows, []any{&o.Kind, &o.Schema, &o.Identity, &o.Owner, &o.Permitted, &o.Superuser}, func() error {
			if word, ok := words[o.Kind]; ok {
				o.Kind = word
			}
			o.Kind = strings.ToUpper(o.Kind)
			*into = append(*into, o)
			return nil
		})
		return err
	})
}

// queueGrants reads what role holds, by its own name, in every user schema. In
// somebody else's database, what other claims made there is no business of
// role: only the roles named beside it count, and those of no claim.
func queueGrants(batch *pgx.Batch, role string, external bool, beside []string, schemas *[]Schema, objects *[]Object) {
	counts := func(oid string) string {
		return "(NOT $2::bool OR pg_get_userbyid(" + oid + ") = ANY($3::text[]) OR coalesce(shobj_description(" + oid + ", 'pg_authid'), '') NOT LIKE '" + claimsComment + "')"
	}
	held := `ARRAY(SELECT DISTINCT a.privilege_type::text FROM aclexplode(%s) a
		WHERE a.grantee = (SELECT oid FROM pg_roles WHERE rolname = $1) ORDER BY 1)`
	batch.Queue(`
		SELECT n.nspname::text, pg_get_userbyid(n.nspowner)::text, pg_has_role(n.nspowner, 'USAGE'),
			`+fmt.Sprintf(held, "n.nspacl")+`,
			ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.rolname !~ '^pg_' AND r.rolname <> $1 AND pg_has_role(r.oid, 'USAGE')
				AND `+counts("r.oid")+` AND (
				r.oid = n.nspowner OR r.oid = (SELECT b.datdba FROM pg_database b WHERE b.datname = current_database())
				OR r.oid IN (SELECT c.relowner FROM pg_class c WHERE c.relnamespace = n.oid)
				OR r.oid IN (SELECT f.proowner FROM pg_proc f WHERE f.pronamespace = n.oid)
				OR r.oid IN (SELECT a.grantee FROM aclexplode(n.nspacl) a WHERE a.privilege_type = 'CREATE')) ORDER BY 1)
		FROM pg_namespace n WHERE `+userSchema+` ORDER BY 1`, role, external, beside).Query(func(rows pgx.Rows) error {
		var s Schema
		_, err := pgx.ForEachRow(rows, []any{&s.Name, &s.Owner, &s.Permitted, &s.Privileges, &s.Creators}, func() error {
			*schemas = append(*schemas, s)
			s.Privileges, s.Creators = nil, nil
			return nil
		})
		return err
	})
	batch.Queue(`
		SELECT x.kind, n.nspname::text, x.identity, pg_get_userbyid(x.owner)::text, pg_has_role(x.owner, 'USAGE'), `+fmt.Sprintf(held, "x.acl")+`
		FROM (
			SELECT 'pg_class'::regclass AS class, c.oid, c.relnamespace AS schema, c.relowner AS owner, c.relacl AS acl,
				CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, format('%I.%I', s.nspname, c.relname) AS identity
			FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace WHERE c.relkind IN ('r','p','v','m','f','S')
			UNION ALL
			SELECT 'pg_proc'::regclass, f.oid, f.pronamespace, f.proowner, f.proacl, 'ROUTINE', f.oid::regprocedure::text FROM pg_proc f
		) x JOIN pg_namespace n ON n.oid = x.schema
		WHERE `+userSchema+` AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = x.class AND d.objid = x.oid AND (d.deptype = 'e' OR d.deptype = 'i' AND x.kind = 'ROUTINE'))
			AND `+counts("x.owner")+`
		ORDER BY 1, 2, 3`, role, external, beside).Query(func(rows pgx.Rows) error {
		var o Object
		_, err := pgx.ForEachRow(rows, []any{&o.Kind, &o.Schema, &o.Identity, &o.Owner, &o.Permitted, &o.Privileges}, func() error {
			*objects = append(*objects, o)
			o.Privileges = nil
			return nil
		})
		return err
	})
}

// queueDefaults reads the default privileges that were given to role.
func queueDefaults(batch *pgx.Batch, role string, into *[]Default) {
	batch.Queue(`
		SELECT pg_get_userbyid(d.defaclrole)::text, n.nspname::text,
			CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' ELSE 'FUNCTIONS' END,
			array_agg(DISTINCT a.privilege_type::text ORDER BY a.privilege_type::text)
		FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
		WHERE d.defaclobjtype IN ('r','S','f') AND a.grantee = (SELECT oid FROM pg_roles WHERE rolname = $1) AND pg_has_role(d.defaclrole, 'USAGE')
		GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`, role).Query(func(rows pgx.Rows) error {
		var d Default
		_, err := pgx.ForEachRow(rows, []any{&d.Creator, &d.Schema, &d.Kind, &d.Privileges}, func() error {
			*into = append(*into, d)
			d.Privileges = nil
			return nil
		})
		return err
	})
}

// grouped collects identities under a key, in a stable order of keys.
func grouped(objects []Object, key func(Object) string) ([]string, map[string][]Object) {
	groups := map[string][]Object{}
	for _, o := range objects {
		if k := key(o); k != "" {
			groups[k] = append(groups[k], o)
		}
	}
	return slices.Sorted(maps.Keys(groups)), groups
}
