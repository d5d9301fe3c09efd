package postgres

import (
	"fmt"
	"maps"
	"slices"
)

// takeOver gives the database, and what is in it, to the wanted owner. In an
// adoption that is everything; in our own database, whose owner changed, only
// what the former owner had, for members own things by right. The database
// itself goes last: until then a replay finds the rest again.
func (p *plan) takeOver(want Database, have DatabaseState, facts Facts) error {
	if !have.takeOver(want) {
		return nil
	}
	adopting := !have.ours(want)
	var objects []Object
	type owner struct{ permitted, superuser bool }
	owners := map[string]owner{}
	for _, o := range have.Foreign {
		if !adopting && o.Owner != have.Owner {
			continue
		}
		objects = append(objects, o)
		owners[o.Owner] = owner{o.Permitted, o.Superuser}
	}
	if have.Owner != want.Owner {
		owners[have.Owner] = owner{have.Permitted, have.Superuser}
	}
	former := slices.Sorted(maps.Keys(owners))
	for _, name := range former {
		switch o := owners[name]; {
		case o.permitted:
		case o.superuser:
			return refusal(NotPermitted, fmt.Sprintf("Things in database %q belong to the superuser %q; only a superuser can hand them over.", want.Name, name))
		default:
			p.become(name, facts)
		}
	}
	in := plan{database: want.Name}
	if !facts.Superuser && facts.Version >= 150000 {
		// A new owner of a table must be allowed to create in its schema.
		in.add("let "+want.Owner+" create in schema public", "GRANT USAGE, CREATE ON SCHEMA public TO %s", ident(want.Owner))
	}
	for _, o := range objects {
		in.add(fmt.Sprintf("hand %s to %s", o.Identity, want.Owner), "ALTER %s %s OWNER TO %s", o.Kind, o.Identity, ident(want.Owner))
	}
	for _, owner := range former {
		for _, kind := range []string{"TABLES", "SEQUENCES", "FUNCTIONS", "TYPES", "SCHEMAS"} {
			in.add(fmt.Sprintf("let %s use later %s of %s", want.Owner, kind, owner), "ALTER DEFAULT PRIVILEGES FOR ROLE %s GRANT ALL ON %s TO %s",
				ident(owner), kind, ident(want.Owner))
		}
	}
	p.statements = append(p.statements, in.statements...)
	if have.Owner != want.Owner {
		p.add("hand database "+want.Name+" to "+want.Owner, "ALTER DATABASE %s OWNER TO %s", ident(want.Name), ident(want.Owner))
	}
	return nil
}

// contents makes what is wanted inside the database and is not there.
func (p *plan) contents(want Database, have DatabaseState, facts Facts) {
	in := plan{database: want.Name}
	taken := have.takeOver(want)
	if publicIsOpen(facts) && have.Schemas["public"] != want.Owner && (!have.Exists || have.Schemas["public"] != "") {
		in.add("give schema public to "+want.Owner, "ALTER SCHEMA public OWNER TO %s", ident(want.Owner))
		in.add("keep others out of schema public", "REVOKE ALL ON SCHEMA public FROM PUBLIC")
	}
	for _, schema := range want.Schemas {
		owner, exists := have.Schemas[schema]
		switch {
		case !exists && (have.Exists || schema != "public"):
			in.add("create schema "+schema, "CREATE SCHEMA IF NOT EXISTS %s AUTHORIZATION %s", ident(schema), ident(want.Owner))
		case exists && owner != want.Owner && owner != "pg_database_owner" && !want.External && !taken:
			in.add("give schema "+schema+" to "+want.Owner, "ALTER SCHEMA %s OWNER TO %s", ident(schema), ident(want.Owner))
		}
	}
	first := true
	for _, extension := range want.Extensions {
		if slices.Contains(have.Extensions, extension) {
			continue
		}
		if first {
			// An extension without a schema of its own goes to the first of the search path.
			in.add("choose the schema for extensions", "SET search_path TO public")
			first = false
		}
		in.add("create extension "+extension, "CREATE EXTENSION IF NOT EXISTS %s", ident(extension))
	}
	p.statements = append(p.statements, in.statements...)
}

// external gives the owner role its grants on somebody else's database.
func (p *plan) external(want Database, have DatabaseState, facts Facts) []Statement {
	if have.Permitted || !slices.Contains(have.Public, "CONNECT") {
		p.adjust(want.Owner, "DATABASE", ident(want.Name), have.Held, []string{"CONNECT", "CREATE", "TEMPORARY"})
	}
	p.contents(want, have, facts)
	in := plan{database: want.Name}
	in.levels(want.Owner, func(string) string { return Admin }, have.Grants, have.Objects, facts)
	for _, s := range have.Grants {
		in.defaults(want.Owner, s.Name, Admin, s.Creators, have.Defaults, facts)
	}
	p.statements = append(p.statements, in.statements...)
	if comment := want.Marker.Comment(); have.Role.Exists && have.Role.Comment != comment {
		p.mark("ROLE", want.Owner, comment)
	}
	return p.statements
}
