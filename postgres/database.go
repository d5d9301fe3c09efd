package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Database is one database as a claim wants it.
type Database struct {
	Name   string
	Owner  string // NOLOGIN role that owns everything in it
	Marker Marker // goes to the comments of the database and of the owner

	// Adopt allows taking over a database that has no marker or another's, and
	// repairing its ownership.
	Adopt bool
	// External is somebody else's database: it is never created, owned, marked
	// or dropped; the owner role only gets grants.
	External bool

	Schemas, Extensions []string
	// Logins are read along, to spare a round trip each.
	Logins []string
}

// DatabaseState is what the server has of a wanted database.
type DatabaseState struct {
	Exists    bool
	Owner     string
	Permitted bool     // the administrator may act as the owner
	Superuser bool     // the owner is one
	Closed    bool     // the administrator may not connect to it
	Comment   string   // raw
	Public    []string // privileges of PUBLIC
	Held      []string // privileges of the wanted owner role
	Grantees  []string // roles with CONNECT; empty text is PUBLIC
	Sessions  []string // logins connected now that the administrator may not act as

	Role   RoleState // the wanted owner role
	Logins []LoginState

	Available  []string          // wanted extensions the server can install
	Extensions []string          // wanted extensions that are installed
	Schemas    map[string]string // every user schema with its owner
	Foreign    []Object          // objects of other owners; read only for a take-over

	// Grants of the owner role; read only for an external database.
	Grants   []Schema
	Objects  []Object
	Defaults []Default
}

// ours reports whether the database carries the claim's marker, or lost it but
// is still owned by the role that carries it.
func (have DatabaseState) ours(want Database) bool {
	if want.Marker.marks(have.Comment) {
		return true
	}
	_, others := ParseMarker(have.Comment)
	return !others && have.Owner == want.Owner && want.Marker.marks(have.Role.Comment)
}

// takeOver reports that objects may have to change their owner.
func (have DatabaseState) takeOver(want Database) bool {
	return have.Exists && !want.External && (have.Owner != want.Owner || !have.ours(want))
}

// ReadDatabase reads everything DecideDatabase, DecideRelease and DecideDrop
// need. It looks into the database only when something in there is wanted.
func (s *Server) ReadDatabase(ctx context.Context, want Database) (DatabaseState, error) {
	var have DatabaseState
	var facts Facts
	err := s.read(ctx, "reading database "+want.Name, func(ctx context.Context, conn *pgx.Conn, f Facts) error {
		facts = f
		batch := &pgx.Batch{}
		queueDatabase(batch, want, &have)
		queueRole(batch, want.Owner, f, &have.Role)
		have.Logins = make([]LoginState, len(want.Logins))
		for i, login := range want.Logins {
			queueRole(batch, login, f, &have.Logins[i])
		}
		if len(want.Extensions) > 0 {
			batch.Queue("SELECT array_agg(name::text) FROM pg_available_extensions WHERE name = ANY($1::text[])", want.Extensions).
				QueryRow(func(row pgx.Row) error { return row.Scan(&have.Available) })
		}
		return conn.SendBatch(ctx, batch).Close()
	})
	if err != nil || !have.inside(want, facts) {
		return have, err
	}
	err = s.tenant(ctx, want.Name, func(ctx context.Context, conn *pgx.Conn) error {
		ctx, cancel := s.bounded(ctx)
		defer cancel()
		batch := &pgx.Batch{}
		queueInside(batch, want, &have)
		return conn.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return have, fmt.Errorf("reading inside database %s: %w", want.Name, s.explainLoss(err))
	}
	return have, nil
}

func (have DatabaseState) inside(want Database, facts Facts) bool {
	takeOver := have.takeOver(want) && (want.Adopt || have.ours(want))
	return have.Exists && !have.Closed && (want.External || takeOver || len(want.Schemas) > 0 || len(want.Extensions) > 0 || publicIsOpen(facts))
}

// publicIsOpen is true where everybody may create in schema public and only a
// superuser can change that.
func publicIsOpen(facts Facts) bool { return facts.Version < 150000 && facts.Superuser }

func queueDatabase(batch *pgx.Batch, want Database, have *DatabaseState) {
	held := `ARRAY(SELECT a.privilege_type::text FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee = %s ORDER BY 1)`
	batch.Queue(`
		SELECT o.rolname::text, pg_has_role(o.oid, 'USAGE'), o.rolsuper,
			NOT has_database_privilege(d.oid, 'CONNECT'), coalesce(shobj_description(d.oid, 'pg_database'), ''),
			`+fmt.Sprintf(held, "0")+`, `+fmt.Sprintf(held, "(SELECT oid FROM pg_roles WHERE rolname = $2)")+`,
			ARRAY(SELECT coalesce(r.rolname::text, '') FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
				LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE a.privilege_type = 'CONNECT' ORDER BY 1),
			ARRAY(SELECT DISTINCT r.rolname::text FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
				WHERE a.datid = d.oid AND NOT r.rolsuper AND NOT pg_has_role(r.oid, 'USAGE') ORDER BY 1)
		FROM pg_database d JOIN pg_roles o ON o.oid = d.datdba WHERE d.datname = $1`, want.Name, want.Owner).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&have.Owner, &have.Permitted, &have.Superuser, &have.Closed, &have.Comment, &have.Public, &have.Held, &have.Grantees, &have.Sessions)
		have.Exists = err == nil
		return missingIsFine(err)
	})
}

// queueInside asks only for what the decision at hand needs: a large database
// has many objects, and a steady one needs none of them.
func queueInside(batch *pgx.Batch, want Database, have *DatabaseState) {
	have.Schemas = map[string]string{}
	batch.Queue("SELECT n.nspname::text, pg_get_userbyid(n.nspowner)::text FROM pg_namespace n WHERE " + userSchema).Query(func(rows pgx.Rows) error {
		var name, owner string
		_, err := pgx.ForEachRow(rows, []any{&name, &owner}, func() error { have.Schemas[name] = owner; return nil })
		return err
	})
	batch.Queue("SELECT array_agg(extname::text) FROM pg_extension WHERE extname = ANY($1::text[])", want.Extensions).
		QueryRow(func(row pgx.Row) error { return row.Scan(&have.Extensions) })
	if have.takeOver(want) {
		queueForeign(batch, want.Owner, &have.Foreign)
	}
	if want.External {
		queueGrants(batch, want.Owner, true, []string{want.Owner}, &have.Grants, &have.Objects)
		queueDefaults(batch, want.Owner, &have.Defaults)
	}
}

// DecideDatabase says what brings the server from have to want: nil when
// nothing differs. It refuses with a *Fault what it must not do.
func DecideDatabase(want Database, have DatabaseState, facts Facts) ([]Statement, error) {
	if err := want.check(have, facts); err != nil {
		return nil, err
	}
	var p plan
	ownsIt := have.Exists && have.Owner == want.Owner
	if err := checkGroup(have.Role, want.Marker, ownsIt && (want.Adopt || have.ours(want))); err != nil {
		return nil, err
	}
	if !have.Role.Exists {
		p.createGroup(want.Owner, want.Marker, facts)
	} else if !have.Role.Usable {
		p.become(want.Owner, facts)
	}
	if want.External {
		return p.external(want, have, facts), nil
	}
	if !have.Exists {
		p.add("create database "+want.Name, "CREATE DATABASE %s OWNER %s TEMPLATE template0", ident(want.Name), ident(want.Owner)).Alone = true
		p.statements[len(p.statements)-1].Done = fmt.Sprintf("SELECT pg_catalog.pg_get_userbyid(datdba) = %s FROM pg_catalog.pg_database WHERE datname = %s",
			literal(want.Owner), literal(want.Name))
	}
	if have.Exists && have.Owner == want.Owner && !slices.Contains(have.Held, "CONNECT") {
		// Before anything inside: the administrator gets in through the owner.
		p.admit(want)
	}
	if err := p.takeOver(want, have, facts); err != nil {
		return nil, err
	}
	p.contents(want, have, facts)
	p.close(want, have)
	return p.statements, nil
}

func (p *plan) admit(want Database) {
	p.add("let "+want.Owner+" into database "+want.Name, "GRANT ALL ON DATABASE %s TO %s", ident(want.Name), ident(want.Owner))
}

// close takes from PUBLIC what it has and writes the markers last: they
// promise that all before is done.
func (p *plan) close(want Database, have DatabaseState) {
	name, comment := ident(want.Name), want.Marker.Comment()
	if !have.Exists || len(have.Public) > 0 {
		p.add("keep others out of database "+want.Name, "REVOKE ALL ON DATABASE %s FROM PUBLIC", name)
	}
	if have.Exists && have.Owner != want.Owner {
		p.admit(want)
	}
	if have.Role.Exists && have.Role.Comment != comment {
		p.mark("ROLE", want.Owner, comment)
	}
	if have.Comment != comment {
		p.mark("DATABASE", want.Name, comment)
	}
}

// check refuses before anything is planned; each message says what would be accepted.
func (want Database) check(have DatabaseState, facts Facts) error {
	if !want.External {
		if err := CheckName("database", want.Name); err != nil {
			return err
		}
	}
	if err := CheckName("role", want.Owner); err != nil {
		return err
	}
	for _, schema := range want.Schemas {
		if err := CheckName("schema", schema); err != nil {
			return err
		}
	}
	for _, extension := range want.Extensions {
		if !slices.Contains(have.Available, extension) {
			return refusal(ExtensionUnavailable, fmt.Sprintf("The server has no extension %q to install; install its package on the server, or leave it out.", extension))
		}
	}
	if facts.Version < 130000 {
		return refusal(NotSupported, "PostgreSQL 13 is the oldest version that can be used.")
	}
	switch {
	case want.External && !have.Exists:
		return refusal(DatabaseMissing, fmt.Sprintf("The database %q does not exist; it is not created, because it is somebody else's.", want.Name))
	case have.Closed && (want.External || want.Adopt && have.takeOver(want)):
		return refusal(NotPermitted, fmt.Sprintf("The administrator may not connect to database %q; grant it CONNECT.", want.Name))
	case want.External || !have.Exists || want.Adopt || have.ours(want):
		return nil
	}
	return refusal(DatabaseNotOurs, fmt.Sprintf("The database %q exists and %s; use another name, allow its adoption, or use it as an existing source.", want.Name, ownerOf(have.Comment)))
}
