package postgres

import "slices"

// Release says what a claim leaves behind when it goes and its database stays.
type Release struct {
	Database Database
	Marker   Marker // with Released, and DropAfter unless kept for ever
	Logins   []LoginState
}

// DecideRelease drops the logins, ends their sessions, takes CONNECT from
// everybody but the owner role, which cannot log in, and rewrites the markers. The database and its owner role stay. It
// is nil for a database that is not ours, but for the logins.
func DecideRelease(r Release, have DatabaseState, facts Facts) []Statement {
	var p plan
	if have.Role.Exists && !have.Role.Usable {
		p.become(r.Database.Owner, facts)
	}
	p.drop(r.Logins, ident(r.Database.Owner), facts)
	comment := r.Marker.Comment()
	if !r.Database.External && have.Exists && have.ours(r.Database) {
		if !have.Permitted {
			p.become(have.Owner, facts)
		}
		for _, grantee := range have.Grantees {
			if grantee == have.Owner {
				continue // the administrator gets in through it, and its logins are gone
			}
			to := "PUBLIC"
			if grantee != "" {
				to = ident(grantee)
			}
			p.add("keep "+to+" out of database "+r.Database.Name, "REVOKE CONNECT ON DATABASE %s FROM %s", ident(r.Database.Name), to)
		}
		if have.Comment != comment {
			p.mark("DATABASE", r.Database.Name, comment)
		}
	}
	if have.Role.Exists && r.Database.Marker.marks(have.Role.Comment) && have.Role.Comment != comment {
		p.mark("ROLE", r.Database.Owner, comment)
	}
	return p.statements
}

// drop disables logins, ends their sessions and drops them, in that order: a
// session ended too early would be back before its login is gone.
func (p *plan) drop(logins []LoginState, heir string, facts Facts) {
	var names []string
	for _, login := range logins {
		if !login.Exists {
			continue
		}
		names = append(names, login.Name)
		p.statements = append(p.statements, DisableLogin(login.Name)...)
		p.become(login.Name, facts)
	}
	// A server refuses a login that was disabled only once that is committed.
	before := len(p.statements)
	p.endSessions(names, facts)
	if before < len(p.statements) {
		p.statements[before].Alone = true
	}
	for _, login := range logins {
		p.dropRole(login, heir, "", facts)
	}
}

// DecideDrop removes the database and its owner role for good, and the logins
// given. It does not need a superuser, may be replayed, and never touches a
// database or a role that does not carry the claim's marker. In a database
// that is somebody else's only what the owner role was granted goes, and what
// it made stays with the administrator.
func DecideDrop(want Database, have DatabaseState, logins []LoginState, facts Facts) []Statement {
	var p plan
	heir := "CURRENT_USER"
	dropped := ""
	if have.Role.Exists {
		heir = ident(want.Owner)
		if !have.Role.Usable {
			p.become(want.Owner, facts)
		}
	}
	p.drop(logins, heir, facts)
	if have.Exists && !want.External && have.ours(want) {
		dropped = want.Name
		if !have.Permitted {
			p.become(have.Owner, facts)
		}
		for _, name := range have.Sessions {
			if !slices.ContainsFunc(logins, func(l LoginState) bool { return l.Name == name }) {
				p.become(name, facts)
			}
		}
		p.add("drop database "+want.Name, "DROP DATABASE IF EXISTS %s WITH (FORCE)", ident(want.Name)).Alone = true
	}
	if want.Marker.marks(have.Role.Comment) {
		p.dropRole(have.Role, externalHeir(want, have), dropped, facts)
	}
	return p.statements
}

// externalHeir is the database's true owner where the administrator may act as
// that, and the administrator otherwise.
func externalHeir(want Database, have DatabaseState) string {
	if want.External && have.Exists && have.Permitted {
		return ident(have.Owner)
	}
	return "CURRENT_USER"
}
