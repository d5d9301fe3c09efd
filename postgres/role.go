package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Facts are what a server says about itself and about its administrator.
type Facts struct {
	Version    int // server_version_num
	User       string
	Superuser  bool
	CreateRole bool
	CreateDB   bool

	// Groups that stand for an attribute on hosted servers; empty where there are none.
	SuperuserGroup, ReplicationGroup string
}

// grantsOptions reports whether GRANT of a role takes INHERIT and SET.
func (f Facts) grantsOptions() bool { return f.Version >= 160000 }

// Facts reads them once; they stay for the life of the pool.
func (s *Server) Facts(ctx context.Context) (Facts, error) {
	s.mu.Lock()
	known := s.facts
	s.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	var f Facts
	err := s.admin(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		ctx, cancel := s.bounded(ctx)
		defer cancel()
		return conn.QueryRow(ctx, `
			SELECT current_setting('server_version_num')::int, rolname::text, rolsuper, rolcreaterole, rolcreatedb,
				coalesce((SELECT rolname::text FROM pg_roles WHERE rolname IN ('rds_superuser', 'alloydbsuperuser') ORDER BY 1 LIMIT 1), ''),
				coalesce((SELECT rolname::text FROM pg_roles WHERE rolname IN ('rds_replication', 'alloydbreplica') ORDER BY 1 LIMIT 1), '')
			FROM pg_roles WHERE rolname = current_user`).
			Scan(&f.Version, &f.User, &f.Superuser, &f.CreateRole, &f.CreateDB, &f.SuperuserGroup, &f.ReplicationGroup)
	})
	if err != nil {
		return Facts{}, fmt.Errorf("reading facts: %w", s.explainLoss(err))
	}
	s.mu.Lock()
	s.facts = &f
	s.mu.Unlock()
	return f, nil
}

// RoleState is what the server knows of a role.
type RoleState struct {
	Name        string
	Exists      bool
	CanLogin    bool
	Superuser   bool
	Replication bool
	Session     string   // role taken at login; empty for none
	Comment     string   // raw; see ParseMarker
	MemberOf    []string // roles granted to it
	Databases   []string // where it owns or may use something
	Usable      bool     // the administrator may act as it
}

// LoginState is the state of a role that logs in.
type LoginState = RoleState

// ReadLogin reads one role; a missing one is no error.
func (s *Server) ReadLogin(ctx context.Context, name string) (LoginState, error) {
	var state RoleState
	err := s.read(ctx, "reading role "+name, func(ctx context.Context, conn *pgx.Conn, facts Facts) error {
		batch := &pgx.Batch{}
		queueRole(batch, name, facts, &state)
		return conn.SendBatch(ctx, batch).Close()
	})
	return state, err
}

// readTimeout bounds one look at the maintenance database, so that a server
// that freezes does not hold those who only look for as long as a change may take.
const readTimeout = 10 * time.Second

// read runs work on a connection to the maintenance database, facts at hand.
func (s *Server) read(ctx context.Context, what string, work func(context.Context, *pgx.Conn, Facts) error) error {
	facts, err := s.Facts(ctx)
	if err == nil {
		err = s.lend(ctx, s.readers, func(ctx context.Context, conn *pgx.Conn) error {
			ctx, cancel := context.WithTimeout(ctx, readTimeout)
			defer cancel()
			return work(ctx, conn, facts)
		})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, s.explainLoss(err))
	}
	return nil
}

// queueRole reads a role in one query of a batch. Usable asks for both ways to
// act as it: its rights by inheritance, and SET ROLE, which 16 made separate.
func queueRole(batch *pgx.Batch, name string, facts Facts, into *RoleState) {
	usable := "pg_has_role(r.oid, 'USAGE')"
	if facts.grantsOptions() {
		usable += " AND pg_has_role(r.oid, 'SET')"
	}
	*into = RoleState{Name: name}
	batch.Queue(`
		SELECT r.rolcanlogin, r.rolsuper, r.rolreplication, coalesce(shobj_description(r.oid, 'pg_authid'), ''),
			coalesce((SELECT substr(c, 6) FROM pg_db_role_setting s, unnest(s.setconfig) c
				WHERE s.setrole = r.oid AND s.setdatabase = 0 AND c LIKE 'role=%'), ''),
			ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid ORDER BY 1),
			ARRAY(SELECT DISTINCT d.datname::text FROM pg_shdepend p JOIN pg_database d ON d.oid = p.dbid
				WHERE p.refclassid = 'pg_authid'::regclass AND p.refobjid = r.oid ORDER BY 1),
			`+usable+`
		FROM pg_roles r WHERE r.rolname = $1`, name).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&into.CanLogin, &into.Superuser, &into.Replication, &into.Comment,
			&into.Session, &into.MemberOf, &into.Databases, &into.Usable)
		into.Exists = err == nil
		return missingIsFine(err)
	})
}

func missingIsFine(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

// become lets the administrator act as role. A superuser needs nothing.
func (p *plan) become(role string, facts Facts) {
	if facts.Superuser {
		return
	}
	options := ""
	if facts.grantsOptions() {
		options = " WITH INHERIT TRUE, SET TRUE"
	}
	p.add("let the administrator act as "+role, "GRANT %s TO CURRENT_USER%s", ident(role), options).Done = roleMissing(role)
}

// roleMissing is the Done of whatever needs a role that a former run dropped.
func roleMissing(role string) string {
	return "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = " + literal(role) + ")"
}

// createGroup makes a NOLOGIN role with its marker, in one transaction: a role
// without a marker is never one that was left half made.
func (p *plan) createGroup(name string, marker Marker, facts Facts) {
	comment := marker.Comment()
	p.add("create role "+name, "CREATE ROLE %s NOLOGIN", ident(name)).Done = "SELECT pg_catalog.shobj_description(oid, 'pg_authid') = " +
		literal(comment) + " FROM pg_catalog.pg_roles WHERE rolname = " + literal(name)
	p.mark("ROLE", name, comment)
	p.become(name, facts)
}

func (p *plan) mark(kind, name, comment string) {
	p.add("mark "+map[string]string{"ROLE": "role ", "DATABASE": "database "}[kind]+name, "COMMENT ON %s %s IS %s", kind, ident(name), literal(comment))
}

// checkGroup refuses a role that must not become a group of ours. A role that
// carries no marker or another's is accepted only when adopt allows it.
func checkGroup(have RoleState, marker Marker, adopt bool) error {
	switch {
	case !have.Exists:
		return nil
	case have.Superuser:
		return refusal(RoleNotOurs, fmt.Sprintf("The role %q exists and is a superuser; choose another name.", have.Name))
	case have.CanLogin:
		return refusal(RoleNotOurs, fmt.Sprintf("The role %q exists and can log in; choose another name, or make it NOLOGIN.", have.Name))
	case marker.marks(have.Comment) || adopt:
		return nil
	}
	return refusal(RoleNotOurs, fmt.Sprintf("The role %q exists and %s; choose another name, or drop the role.", have.Name, ownerOf(have.Comment)))
}

// dropRole hands what the role owns to heir, takes away what it was granted,
// and drops it. It does not need a superuser, and may be replayed.
func (p *plan) dropRole(have RoleState, heir string, except string, facts Facts) {
	if !have.Exists {
		return
	}
	name := ident(have.Name)
	p.become(have.Name, facts)
	for _, database := range have.Databases {
		if database == except {
			continue
		}
		in := plan{database: database}
		gone := roleMissing(have.Name) + " OR NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = " + literal(database) + ")"
		in.add("hand over what role "+have.Name+" owns in "+database, "REASSIGN OWNED BY %s TO %s", name, heir).Done = gone
		in.add("withdraw what role "+have.Name+" was granted in "+database, "DROP OWNED BY %s", name).Done = gone
		p.statements = append(p.statements, in.statements...)
	}
	p.add("hand over what role "+have.Name+" owns", "REASSIGN OWNED BY %s TO CURRENT_USER", name).Done = roleMissing(have.Name)
	p.add("withdraw what role "+have.Name+" was granted", "DROP OWNED BY %s", name).Done = roleMissing(have.Name)
	p.add("drop role "+have.Name, "DROP ROLE IF EXISTS %s", name)
}

func (r RoleState) memberOf(role string) bool { return slices.Contains(r.MemberOf, role) }
