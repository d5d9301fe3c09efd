package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Role is a role that something in the database, or its owner, names.
type Role struct {
	Name      string
	Superuser bool
	Login     bool
	Inherit   bool
	CreateDB  bool
	CreateRol bool
	Replicate bool
	BypassRLS bool
	Limit     int
	Comment   string
	Verifier  string   // what the server keeps of its password; never shown
	MemberOf  []string // of the roles that move, too
	Settings  []string // name=value, for every database
}

// String is the name: no form of printing shows the verifier.
func (r Role) String() string { return "role " + r.Name }

// Format writes String for every verb.
func (r Role) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(r.String())) }

// neededRoles are those the database depends on, who may act as them, and all
// that these are members of. An administrator who may act as everybody is not
// the tenant's.
const neededRoles = `WITH RECURSIVE here AS (SELECT oid, datdba FROM pg_database WHERE datname = current_database()),
	named AS (SELECT DISTINCT d.refobjid AS oid FROM pg_shdepend d, here WHERE d.refclassid = 'pg_authid'::regclass
			AND (d.dbid = here.oid OR d.classid = 'pg_database'::regclass AND d.objid = here.oid)
		UNION SELECT datdba FROM here),
	acting AS (SELECT oid FROM named UNION SELECT m.member FROM acting JOIN pg_auth_members m ON m.roleid = acting.oid
		JOIN pg_roles r ON r.oid = m.member WHERE NOT r.rolsuper AND NOT r.rolcreaterole),
	needed AS (SELECT oid FROM acting UNION SELECT m.roleid FROM needed JOIN pg_auth_members m ON m.member = needed.oid)`

// readRoles reads them, without the links of migration name; with wanted only
// those names, of roles that may not exist.
func readRoles(ctx context.Context, conn *pgx.Conn, wanted []string, name string) ([]Role, error) {
	with, where := neededRoles, "a.oid IN (SELECT oid FROM needed)"
	args := []any{name + "_"}
	if wanted != nil {
		with, where, args = "", "a.rolname = ANY($2::text[])", append(args, wanted)
	}
	rows, err := conn.Query(ctx, with+`
		SELECT a.rolname::text, a.rolsuper, a.rolcanlogin, a.rolinherit, a.rolcreatedb, a.rolcreaterole, a.rolreplication, a.rolbypassrls, a.rolconnlimit,
			coalesce(shobj_description(a.oid, 'pg_authid'), ''), coalesce(a.rolpassword, ''),
			ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = a.oid AND NOT starts_with(g.rolname::text, $1) ORDER BY 1),
			coalesce((SELECT s.setconfig FROM pg_db_role_setting s WHERE s.setrole = a.oid AND s.setdatabase = 0), '{}')
		FROM pg_authid a WHERE a.rolname !~ '^pg_' AND NOT starts_with(a.rolname::text, $1) AND `+where+` ORDER BY 1`, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Role])
}

// create brings a role to what it is on the source. Its password goes along as
// the server keeps it, so that whoever knows it logs in on either side.
func (r Role) create() []string {
	if r.Superuser {
		return nil // preflight has seen that the target has it
	}
	name := ident(r.Name)
	out := []string{"DO $$ BEGIN CREATE ROLE " + name + "; EXCEPTION WHEN duplicate_object THEN NULL; END $$"}
	attributes := fmt.Sprintf(" CONNECTION LIMIT %d", r.Limit)
	for word, on := range map[string]bool{
		"LOGIN": r.Login, "INHERIT": r.Inherit, "CREATEDB": r.CreateDB, "CREATEROLE": r.CreateRol, "REPLICATION": r.Replicate, "BYPASSRLS": r.BypassRLS,
	} {
		if !on {
			word = "NO" + word
		}
		attributes += " " + word
	}
	password := " PASSWORD NULL"
	if r.Verifier != "" {
		password = " PASSWORD " + literal(r.Verifier)
	}
	out = append(out, "ALTER ROLE "+name+attributes+password)
	for _, s := range r.Settings {
		out = append(out, "ALTER ROLE "+name+" SET "+setting(s))
	}
	if r.Comment != "" {
		out = append(out, "COMMENT ON ROLE "+name+" IS "+literal(r.Comment))
	}
	return out
}

// listSettings take several values, each quoted on its own.
var listSettings = map[string]bool{
	"search_path": true, "temp_tablespaces": true, "session_preload_libraries": true, "local_preload_libraries": true,
}

// setting turns name=value, as the catalog keeps it, into SET's arguments.
func setting(s string) string {
	name, value, _ := strings.Cut(s, "=")
	if listSettings[name] {
		// The catalog keeps the list as it would be written.
		if value == "" {
			value = "''"
		}
		return ident(strings.Split(name, ".")...) + " TO " + value
	}
	return ident(strings.Split(name, ".")...) + " TO " + literal(value)
}

// CopyRoles makes on the target, with their memberships, the roles that the
// database needs. Each keeps its password.
func (p Pair) CopyRoles(ctx context.Context) error {
	var roles []Role
	err := p.From.within(ctx, "reading roles", func(ctx context.Context, conn *pgx.Conn) (err error) {
		roles, err = readRoles(ctx, conn, nil, p.Name)
		return err
	})
	if err != nil {
		return err
	}
	if err := p.recordRoles(ctx, roles); err != nil {
		return err
	}
	return p.To.outside(ctx, "making roles", func(ctx context.Context, conn *pgx.Conn) error {
		for _, r := range roles {
			if err := quietly(ctx, conn, r.create()...); err != nil {
				return fmt.Errorf("making role %s: %w", r.Name, err)
			}
		}
		for _, r := range roles {
			for _, group := range r.MemberOf {
				if err := exec(ctx, conn, "GRANT "+ident(group)+" TO "+ident(r.Name)); err != nil {
					return fmt.Errorf("granting %s to %s: %w", group, r.Name, err)
				}
			}
		}
		return nil
	})
}

const roleMade = "role "

// recordRoles writes down, on the source, which roles the target did not have.
func (p Pair) recordRoles(ctx context.Context, roles []Role) error {
	var there []string
	err := p.To.outside(ctx, "reading roles", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT ARRAY(SELECT rolname::text FROM pg_roles)").Scan(&there)
	})
	if err != nil {
		return err
	}
	return p.From.within(ctx, "recording roles", func(ctx context.Context, conn *pgx.Conn) error {
		for _, r := range roles {
			if slices.Contains(there, r.Name) {
				continue
			}
			if err := once(ctx, conn, p.Name, roleMade+r.Name, "", "SELECT 1"); err != nil {
				return err
			}
		}
		return nil
	})
}

// dropRoles drops from the target the roles that were made there, but none
// that has come to own something else.
func (p Pair) dropRoles(ctx context.Context) error {
	var roles []string
	err := p.From.within(ctx, "reading recorded roles", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT ARRAY(SELECT substr(name, $1) FROM "+ident(p.Name, "effect")+" WHERE starts_with(name, $2))", len(roleMade)+1, roleMade).Scan(&roles)
	})
	if err != nil {
		return err
	}
	return p.To.outside(ctx, "dropping roles", func(ctx context.Context, conn *pgx.Conn) error {
		for _, r := range roles {
			err := exec(ctx, conn, "DROP ROLE IF EXISTS "+ident(r))
			if answer := (*pgconn.PgError)(nil); errors.As(err, &answer) && answer.Code == "2BP01" {
				continue
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
