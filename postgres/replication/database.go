package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// targetBegun is the source's record that the target's database is this
// migration's to make and, until it serves, to drop.
const targetBegun = "target"

// properties of a database that CREATE DATABASE and GRANT can say.
type properties struct {
	Owner, Encoding, Provider, Collate, Ctype, Locale, Rules, Comment string
	Restricted                                                        bool // its grants are not PostgreSQL's default
	grants                                                            []grant
}

type grant struct {
	Privilege, Grantee string // an empty grantee is PUBLIC
	Grantable          bool
}

func (g grant) sql(database string) string {
	to := "PUBLIC"
	if g.Grantee != "" {
		to = ident(g.Grantee)
	}
	if g.Grantable {
		to += " WITH GRANT OPTION"
	}
	return "GRANT " + g.Privilege + " ON DATABASE " + ident(database) + " TO " + to
}

// readProperties leaves out what links of migration name were granted.
func readProperties(ctx context.Context, conn *pgx.Conn, name string) (out properties, err error) {
	err = conn.QueryRow(ctx, `
		SELECT pg_get_userbyid(datdba)::text, pg_encoding_to_char(encoding)::text, datlocprovider::text, datcollate::text, datctype::text,
			coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale', ''), coalesce(to_jsonb(d)->>'daticurules', ''),
			coalesce(shobj_description(d.oid, 'pg_database'), ''), datacl IS NOT NULL
		FROM pg_database d WHERE datname = current_database()`).Scan(
		&out.Owner, &out.Encoding, &out.Provider, &out.Collate, &out.Ctype, &out.Locale, &out.Rules, &out.Comment, &out.Restricted)
	if err != nil {
		return out, err
	}
	rows, err := conn.Query(ctx, `SELECT a.privilege_type::text, coalesce(r.rolname::text, ''), a.is_grantable
		FROM pg_database d, aclexplode(d.datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
		WHERE datname = current_database() AND NOT starts_with(coalesce(r.rolname::text, ''), $1)`, name+"_")
	if err != nil {
		return out, err
	}
	out.grants, err = pgx.CollectRows(rows, pgx.RowToStructByPos[grant])
	return out, err
}

// create is CREATE DATABASE, closed to clients.
func (d properties) create(name string) string {
	sql := fmt.Sprintf("CREATE DATABASE %s OWNER %s TEMPLATE template0 ENCODING %s CONNECTION LIMIT 0 LC_COLLATE %s LC_CTYPE %s",
		ident(name), ident(d.Owner), literal(d.Encoding), literal(d.Collate), literal(d.Ctype))
	switch d.Provider {
	case "i":
		sql += " LOCALE_PROVIDER icu ICU_LOCALE " + literal(d.Locale)
	case "b":
		sql += " LOCALE_PROVIDER builtin BUILTIN_LOCALE " + literal(d.Locale)
	default:
		sql += " LOCALE_PROVIDER libc"
	}
	if d.Rules != "" {
		sql += " ICU_RULES " + literal(d.Rules)
	}
	return sql
}

// createDatabase makes the target's database anew, with the source's locale,
// grants and comment.
func (p Pair) createDatabase(ctx context.Context) error {
	var source properties
	err := p.From.within(ctx, "reading the database", func(ctx context.Context, conn *pgx.Conn) (err error) {
		source, err = readProperties(ctx, conn, p.Name)
		return err
	})
	if err != nil {
		return err
	}
	begun, err := p.From.did(ctx, p.Name, targetBegun)
	if err != nil {
		return err
	}
	name := p.To.Admin.Database
	if begun {
		if err := p.dropTarget(ctx); err != nil {
			return err
		}
	}
	err = p.From.within(ctx, "recording the target", func(ctx context.Context, conn *pgx.Conn) error {
		return once(ctx, conn, p.Name, targetBegun, "", "SELECT 1")
	})
	if err != nil {
		return err
	}
	return p.To.outside(ctx, "creating database "+name, func(ctx context.Context, conn *pgx.Conn) error {
		statements := []string{source.create(name)}
		if source.Restricted {
			statements = append(statements, "REVOKE ALL ON DATABASE "+ident(name)+" FROM PUBLIC")
		}
		for _, g := range source.grants {
			statements = append(statements, g.sql(name))
		}
		if source.Comment != "" {
			statements = append(statements, "COMMENT ON DATABASE "+ident(name)+" IS "+literal(source.Comment))
		}
		return exec(ctx, conn, statements...)
	})
}

// dropTarget drops what was begun on the target. One that is open to clients
// serves somebody, and stays.
func (p Pair) dropTarget(ctx context.Context) error {
	return p.To.outside(ctx, "dropping what was begun", func(ctx context.Context, conn *pgx.Conn) error {
		closed := false
		err := conn.QueryRow(ctx, "SELECT datconnlimit = 0 FROM pg_database WHERE datname = $1", p.To.Admin.Database).Scan(&closed)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if !closed {
			return fmt.Errorf("database %s is open to clients", p.To.Admin.Database)
		}
		if err := p.To.unsubscribeAll(ctx, p.Name); err != nil {
			return err
		}
		return exec(ctx, conn, "DROP DATABASE "+ident(p.To.Admin.Database)+" WITH (FORCE)")
	})
}

// unsubscribeAll drops every subscription of the migration in this database.
func (s Side) unsubscribeAll(ctx context.Context, name string) error {
	err := s.within(ctx, "dropping subscriptions", func(ctx context.Context, conn *pgx.Conn) error {
		var links []string
		err := conn.QueryRow(ctx, `SELECT ARRAY(SELECT subname::text FROM pg_subscription
			WHERE starts_with(subname::text, $1) AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()))`, name+"_").Scan(&links)
		for _, link := range links {
			if err == nil {
				err = unsubscribe(ctx, conn, link)
			}
		}
		return err
	})
	return ignoreMissingDatabase(err)
}

// copySettings sets on the target what ALTER DATABASE SET, and ALTER ROLE IN
// DATABASE, set on the source: no dump of a schema holds it.
func (p Pair) copySettings(ctx context.Context) error {
	var statements []string
	err := p.From.within(ctx, "reading settings", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT coalesce(r.rolname::text, ''), s.setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
			LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE d.datname = current_database()`)
		if err != nil {
			return err
		}
		var role string
		var settings []string
		_, err = pgx.ForEachRow(rows, []any{&role, &settings}, func() error {
			of := "ALTER DATABASE " + ident(p.To.Admin.Database)
			if role != "" {
				of = "ALTER ROLE " + ident(role) + " IN DATABASE " + ident(p.To.Admin.Database)
			}
			for _, s := range settings {
				statements = append(statements, of+" SET "+setting(s))
			}
			return nil
		})
		return err
	})
	if err != nil {
		return err
	}
	return p.To.outside(ctx, "copying settings", func(ctx context.Context, conn *pgx.Conn) error {
		return exec(ctx, conn, statements...)
	})
}
