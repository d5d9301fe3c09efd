package postgres

import (
	"fmt"
	"log/slog"
)

// Login is a role that logs in.
type Login struct {
	Name        string
	Owner       string // role it is a member of; empty for none
	Verifier    string // SCRAM verifier; empty leaves the password alone
	Superuser   bool
	Replication bool
	Session     string // role taken at login; empty for none
}

// String is the name; no form of printing shows the verifier.
func (l Login) String() string { return "login " + l.Name }

// GoString is String.
func (l Login) GoString() string { return l.String() }

// Format writes String for every verb.
func (l Login) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(l.String())) }

// LogValue is String.
func (l Login) LogValue() slog.Value { return slog.StringValue(l.String()) }

// DecideLogin makes the login, or resets its password, and brings attributes,
// membership and session role to what is wanted. Without a verifier the plan
// is only the difference, and nil when there is none.
func DecideLogin(want Login, have LoginState, facts Facts) []Statement {
	var p plan
	p.credential(want, have, facts)
	p.groups(want, have, facts)
	switch want.Session {
	case have.Session:
	case "":
		p.add("let login "+want.Name+" act as itself", "ALTER ROLE %s RESET role", ident(want.Name))
	default:
		p.add("let login "+want.Name+" act as "+want.Session, "ALTER ROLE %s SET role TO %s", ident(want.Name), literal(want.Session))
	}
	return p.statements
}

// credential puts password and attributes into one statement: a login is never
// there without its password.
func (p *plan) credential(want Login, have LoginState, facts Facts) {
	name, password := ident(want.Name), ""
	if want.Verifier != "" {
		password = " PASSWORD " + literal(want.Verifier)
	}
	attributes := ""
	if facts.SuperuserGroup == "" && want.Superuser != have.Superuser {
		attributes += attribute("SUPERUSER", want.Superuser)
	}
	if facts.ReplicationGroup == "" && want.Replication != have.Replication {
		attributes += attribute("REPLICATION", want.Replication)
	}
	switch {
	case !have.Exists:
		group := ""
		if want.Owner != "" {
			group = " IN ROLE " + ident(want.Owner)
		}
		p.add("create login "+want.Name, "CREATE ROLE %s LOGIN%s%s%s", name, attributes, password, group)
	case want.Verifier != "":
		p.add("set the password of login "+want.Name, "ALTER ROLE %s LOGIN%s%s", name, attributes, password)
	case !have.CanLogin || attributes != "":
		p.add("change login "+want.Name, "ALTER ROLE %s LOGIN%s", name, attributes)
	}
	if n := len(p.statements); n > 0 {
		p.statements[n-1].Sensitive = want.Verifier != ""
		if !have.Exists {
			// The name is the claim's own: a login that appeared since the read is a plan that ran before.
			p.statements[n-1].Done = "SELECT rolcanlogin AND pg_catalog.pg_has_role(oid, " + literal(groupOr(want)) + ", 'MEMBER') FROM pg_catalog.pg_roles WHERE rolname = " + literal(want.Name)
		}
	}
}

// groups follows what hosted servers do: rights that no administrator there may
// give as an attribute come with a group.
func (p *plan) groups(want Login, have LoginState, facts Facts) {
	if have.Exists && want.Owner != "" && !have.memberOf(want.Owner) {
		p.add("make login "+want.Name+" a member of "+want.Owner, "GRANT %s TO %s", ident(want.Owner), ident(want.Name))
	}
	for _, g := range []struct {
		group string
		want  bool
	}{{facts.SuperuserGroup, want.Superuser}, {facts.ReplicationGroup, want.Replication}} {
		switch {
		case g.group == "" || g.want == have.memberOf(g.group):
		case g.want:
			p.add("grant "+g.group+" to login "+want.Name, "GRANT %s TO %s", ident(g.group), ident(want.Name))
		default:
			p.add("revoke "+g.group+" from login "+want.Name, "REVOKE %s FROM %s", ident(g.group), ident(want.Name))
		}
	}
}

func groupOr(want Login) string {
	if want.Owner != "" {
		return want.Owner
	}
	return want.Name
}

func attribute(name string, on bool) string {
	if on {
		return " " + name
	}
	return " NO" + name
}

// DisableLogin ends what the login may do without dropping it: no login, no
// password. Sessions stay. A login that is gone is fine.
func DisableLogin(name string) []Statement {
	var p plan
	p.add("disable login "+name, "ALTER ROLE %s NOLOGIN PASSWORD NULL", ident(name)).Done = roleMissing(name)
	return p.statements
}
