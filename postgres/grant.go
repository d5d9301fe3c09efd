package postgres

import (
	"fmt"
	"slices"
	"strings"
)

// Levels of access to a schema.
const (
	ReadOnly = "readonly"
	Regular  = "regular"
	Admin    = "admin"
)

// access is what level means for a kind of thing, sorted. MAINTAIN came with 17.
func access(level, kind string, facts Facts) []string {
	switch level + " " + strings.TrimSuffix(kind, "S") {
	case ReadOnly + " SCHEMA":
		return []string{"USAGE"}
	case Regular + " SCHEMA", Admin + " SCHEMA":
		return []string{"CREATE", "USAGE"}
	case ReadOnly + " TABLE", ReadOnly + " SEQUENCE":
		return []string{"SELECT"}
	case Regular + " TABLE":
		return []string{"DELETE", "INSERT", "SELECT", "UPDATE"}
	case Admin + " TABLE":
		all := []string{"DELETE", "INSERT", "REFERENCES", "SELECT", "TRIGGER", "TRUNCATE", "UPDATE"}
		if facts.Version >= 170000 {
			all = []string{"DELETE", "INSERT", "MAINTAIN", "REFERENCES", "SELECT", "TRIGGER", "TRUNCATE", "UPDATE"}
		}
		return all
	case Regular + " SEQUENCE", Admin + " SEQUENCE":
		return []string{"SELECT", "UPDATE", "USAGE"}
	case Admin + " ROUTINE", Admin + " FUNCTION":
		return []string{"EXECUTE"}
	}
	return nil
}

// levels brings the privileges of role, in every schema it knows of, to what
// level says. Only what the administrator may grant is touched.
func (p *plan) levels(role string, level func(schema string) string, schemas []Schema, objects []Object, facts Facts) {
	for _, s := range schemas {
		if s.Permitted && s.Owner != role {
			p.adjust(role, "SCHEMA", ident(s.Name), s.Privileges, access(level(s.Name), "SCHEMA", facts))
		}
	}
	for _, grant := range []bool{true, false} {
		p.objectLevels(role, grant, level, objects, facts)
	}
}

// objectLevels grants what is missing, or revokes what is too much, with one
// statement for all objects that need the same.
func (p *plan) objectLevels(role string, grant bool, level func(string) string, objects []Object, facts Facts) {
	keys, groups := grouped(objects, func(o Object) string {
		if !o.Permitted || o.Owner == role {
			return ""
		}
		missing, excess := compare(o.Privileges, access(level(o.Schema), o.Kind, facts))
		if !grant {
			missing = excess
		}
		if len(missing) == 0 {
			return ""
		}
		return o.Kind + ":" + strings.Join(missing, ", ")
	})
	for _, key := range keys {
		kind, privileges, _ := strings.Cut(key, ":")
		for part := range slices.Chunk(groups[key], chunk) {
			names := make([]string, len(part))
			for i, o := range part {
				names[i] = o.Identity
			}
			p.change(role, grant, privileges, kind, strings.Join(names, ", "))
		}
	}
}

// adjust brings the privileges on one thing from have to want.
func (p *plan) adjust(role, kind, identity string, have, want []string) {
	missing, excess := compare(have, want)
	if len(missing) > 0 {
		p.change(role, true, strings.Join(missing, ", "), kind, identity)
	}
	if len(excess) > 0 {
		p.change(role, false, strings.Join(excess, ", "), kind, identity)
	}
}

func (p *plan) change(role string, grant bool, privileges, kind, identity string) {
	if grant {
		p.add(fmt.Sprintf("grant %s on %s to %s", privileges, strings.ToLower(kind), role), "GRANT %s ON %s %s TO %s", privileges, kind, identity, ident(role))
	} else {
		p.add(fmt.Sprintf("revoke %s on %s from %s", privileges, strings.ToLower(kind), role), "REVOKE %s ON %s %s FROM %s", privileges, kind, identity, ident(role))
	}
}

// compare says what have lacks of want, and what it holds beyond it.
func compare(have, want []string) (missing, excess []string) {
	for _, w := range want {
		if !slices.Contains(have, w) {
			missing = append(missing, w)
		}
	}
	for _, h := range have {
		if !slices.Contains(want, h) {
			excess = append(excess, h)
		}
	}
	return missing, excess
}

// defaultKinds is the order in which default privileges are written.
var defaultKinds = []string{"TABLES", "SEQUENCES", "FUNCTIONS"}

// defaults brings default privileges to grantee to what level says, for what
// each of creators makes later in schema.
func (p *plan) defaults(grantee, schema, level string, creators []string, have []Default, facts Facts) {
	for _, creator := range creators {
		for _, kind := range defaultKinds {
			var held []string
			for _, d := range have {
				if d.Creator == creator && d.Schema == schema && d.Kind == kind {
					held = d.Privileges
				}
			}
			missing, excess := compare(held, access(level, kind, facts))
			if len(missing) > 0 {
				p.changeDefault(creator, schema, "GRANT", strings.Join(missing, ", "), kind, "TO", grantee)
			}
			if len(excess) > 0 {
				p.changeDefault(creator, schema, "REVOKE", strings.Join(excess, ", "), kind, "FROM", grantee)
			}
		}
	}
}

func (p *plan) changeDefault(creator, schema, verb, privileges, kind, preposition, grantee string) {
	p.add(fmt.Sprintf("%s %s on later %s of %s in schema %s %s %s", strings.ToLower(verb), privileges, strings.ToLower(kind), creator, schema, strings.ToLower(preposition), grantee),
		"ALTER DEFAULT PRIVILEGES FOR ROLE %s IN SCHEMA %s %s %s ON %s %s %s",
		ident(creator), ident(schema), verb, privileges, kind, preposition, ident(grantee))
}
