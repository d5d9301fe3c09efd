package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Member is the group role of an extra login on a claim's database.
type Member struct {
	Database      string
	DatabaseOwner string // owns what has to be made, and may use what Role makes
	Role          string
	Marker        Marker
	Access        map[string]string // schema -> readonly, regular or admin
	External      bool              // the database is somebody else's
}

// MemberState is what the server has of a member.
type MemberState struct {
	Exists bool // the database
	Held   []string
	Role   RoleState

	Schemas  []Schema
	Objects  []Object
	Defaults []Default // given to Role
	Returned []Default // given by Role to the database owner
}

// ReadMember reads everything DecideMember and DecideDropMember need.
func (s *Server) ReadMember(ctx context.Context, want Member) (MemberState, error) {
	var have MemberState
	var database DatabaseState
	err := s.read(ctx, "reading role "+want.Role, func(ctx context.Context, conn *pgx.Conn, facts Facts) error {
		batch := &pgx.Batch{}
		queueDatabase(batch, Database{Name: want.Database, Owner: want.Role}, &database)
		queueRole(batch, want.Role, facts, &have.Role)
		return conn.SendBatch(ctx, batch).Close()
	})
	have.Exists, have.Held = database.Exists, database.Held
	if err != nil || !have.Exists {
		return have, err
	}
	err = s.tenant(ctx, want.Database, func(ctx context.Context, conn *pgx.Conn) error {
		ctx, cancel := s.bounded(ctx)
		defer cancel()
		batch := &pgx.Batch{}
		queueGrants(batch, want.Role, want.External, []string{want.Role, want.DatabaseOwner}, &have.Schemas, &have.Objects)
		queueDefaults(batch, want.Role, &have.Defaults)
		queueDefaults(batch, want.DatabaseOwner, &have.Returned)
		return conn.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return have, fmt.Errorf("reading grants of %s in database %s: %w", want.Role, want.Database, s.explainLoss(err))
	}
	return have, nil
}

// DecideMember brings the privileges of the role to exactly what Access says:
// what is missing is granted, what is too much is revoked, on what exists and
// on what the other makers of objects will make. It is nil when all is so.
func DecideMember(want Member, have MemberState, facts Facts) ([]Statement, error) {
	if err := want.check(have); err != nil {
		return nil, err
	}
	var p plan
	comment := want.Marker.Comment()
	switch {
	case !have.Role.Exists:
		p.createGroup(want.Role, want.Marker, facts)
	default:
		if !have.Role.Usable {
			p.become(want.Role, facts)
		}
		if have.Role.Comment != comment {
			p.mark("ROLE", want.Role, comment)
		}
	}
	var connect []string
	if len(want.Access) > 0 {
		connect = []string{"CONNECT"}
	}
	p.adjust(want.Role, "DATABASE", ident(want.Database), have.Held, connect)
	in := plan{database: want.Database}
	schemas := in.missingSchemas(want, have)
	level := func(schema string) string { return want.Access[schema] }
	objects := in.handBack(want, have)
	in.levels(want.Role, level, schemas, objects, facts)
	for _, s := range schemas {
		in.defaults(want.Role, s.Name, level(s.Name), s.Creators, have.Defaults, facts)
		returned := ""
		if level(s.Name) == Regular || level(s.Name) == Admin {
			returned = Admin
		}
		in.defaults(want.DatabaseOwner, s.Name, returned, []string{want.Role}, have.Returned, facts)
	}
	p.statements = append(p.statements, in.statements...)
	return p.statements, nil
}

// missingSchemas makes what is not there, and lists all as if they were.
func (p *plan) missingSchemas(want Member, have MemberState) []Schema {
	schemas := slices.Clone(have.Schemas)
	for _, name := range slices.Sorted(maps.Keys(want.Access)) {
		if slices.ContainsFunc(schemas, func(s Schema) bool { return s.Name == name }) {
			continue
		}
		p.add("create schema "+name, "CREATE SCHEMA IF NOT EXISTS %s AUTHORIZATION %s", ident(name), ident(want.DatabaseOwner))
		schemas = append(schemas, Schema{Name: name, Owner: want.DatabaseOwner, Permitted: true, Creators: []string{want.DatabaseOwner}})
	}
	return schemas
}

// handBack takes from a role that may only read what it made when it could do
// more: an owner can always write. It returns the objects as they are then.
func (p *plan) handBack(want Member, have MemberState) []Object {
	objects := slices.Clone(have.Objects)
	// Tables before sequences: one that belongs to a column follows its table and cannot go alone.
	slices.SortStableFunc(objects, func(a, b Object) int { return strings.Compare(b.Kind, a.Kind) })
	for i, o := range objects {
		if level := want.Access[o.Schema]; o.Owner == want.Role && level != Regular && level != Admin {
			p.add(fmt.Sprintf("hand %s to %s", o.Identity, want.DatabaseOwner), "ALTER %s %s OWNER TO %s", o.Kind, o.Identity, ident(want.DatabaseOwner))
			objects[i].Owner, objects[i].Permitted, objects[i].Privileges = want.DatabaseOwner, true, nil
		}
	}
	return objects
}

func (want Member) check(have MemberState) error {
	if err := CheckName("role", want.Role); err != nil {
		return err
	}
	for _, schema := range slices.Sorted(maps.Keys(want.Access)) {
		if err := CheckName("schema", schema); err != nil {
			return err
		}
		if level := want.Access[schema]; level != ReadOnly && level != Regular && level != Admin {
			return refusal(NotSupported, fmt.Sprintf("The access to schema %q must be readonly, regular or admin.", schema))
		}
	}
	if !have.Exists {
		return &Fault{Reason: DatabaseMissing, Message: bounded(fmt.Sprintf("The database %q does not exist yet.", want.Database))}
	}
	return checkGroup(have.Role, want.Marker, false)
}

// DecideDropMember drops the role and its logins; what they made goes to the
// database owner, or to the administrator in a database that is not ours.
func DecideDropMember(want Member, have MemberState, logins []LoginState, facts Facts) []Statement {
	var p plan
	heir := ident(want.DatabaseOwner)
	if want.External {
		heir = "CURRENT_USER"
	}
	p.drop(logins, heir, facts)
	if want.Marker.marks(have.Role.Comment) {
		p.dropRole(have.Role, heir, "", facts)
	}
	return p.statements
}
