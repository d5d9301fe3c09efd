package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ErrLogins means that a login, such as one that was rotated meanwhile, is not
// the same on both sides.
var ErrLogins = errors.New("a login was changed since it was copied")

// SameLogins compares, without reading them out, the passwords and rights of
// the database's logins.
func SameLogins(ctx context.Context, from, to *pgx.Conn, name string) error {
	var a, b string
	sql := neededRoles + ` SELECT coalesce(md5(string_agg(concat_ws(' ', quote_ident(rolname), rolcanlogin, rolpassword), ',' ORDER BY rolname::text COLLATE "C")), '')
		FROM pg_authid a WHERE rolname !~ '^pg_' AND NOT rolsuper AND NOT starts_with(rolname::text, $1) AND oid IN (SELECT oid FROM needed)`
	err := both(func() error { return from.QueryRow(ctx, sql, name+"_").Scan(&a) }, func() error { return to.QueryRow(ctx, sql, name+"_").Scan(&b) })
	if err != nil {
		return fmt.Errorf("comparing logins: %w", err)
	}
	if a != b {
		return ErrLogins
	}
	return nil
}
