package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// TestLogin logs in to database as user with the server's host, port and TLS,
// and checks that the session acts as role (as user itself when role is
// empty). Its error never holds the password.
func (s *Server) TestLogin(ctx context.Context, database, user, password, role string) error {
	t := s.target
	t.Database, t.User, t.Password = database, user, password
	if role == "" {
		role = user
	}
	return s.as(ctx, t, func(ctx context.Context, conn *pgx.Conn) error {
		ctx, cancel := s.bounded(ctx)
		defer cancel()
		var current string
		if err := conn.QueryRow(ctx, "SELECT current_user::text").Scan(&current); err != nil {
			return fmt.Errorf("testing login %s: %w", user, s.explainLoss(err))
		}
		if current != role {
			return refusal(SessionRoleMissing, fmt.Sprintf("A session of login %q acts as %q instead of %q.", user, current, role))
		}
		return nil
	})
}

// Sessions counts the sessions of these logins on the whole server.
func (s *Server) Sessions(ctx context.Context, logins ...string) (int, error) {
	n := 0
	err := s.read(ctx, "counting sessions", func(ctx context.Context, conn *pgx.Conn, _ Facts) error {
		return conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE usename = ANY($1::text[])", logins).Scan(&n)
	})
	return n, err
}

// EndSessions ends the sessions of these logins and says how many it ended. It
// returns when the server has seen them go, or after 5 s for each.
func (s *Server) EndSessions(ctx context.Context, logins ...string) (int, error) {
	var p plan
	facts, err := s.Facts(ctx)
	if err != nil {
		return 0, err
	}
	for _, login := range logins {
		p.become(login, facts)
	}
	if err := s.Apply(ctx, p.statements); err != nil {
		return 0, err
	}
	n := 0
	err = s.read(ctx, "ending sessions", func(ctx context.Context, conn *pgx.Conn, facts Facts) error {
		return conn.QueryRow(ctx, "SELECT count("+terminate(facts)+") FROM pg_stat_activity WHERE usename = ANY($1::text[])", logins).Scan(&n)
	})
	return n, err
}

// terminate waits for the end of the session where the server can.
func terminate(facts Facts) string {
	if facts.Version >= 140000 {
		return "pg_catalog.pg_terminate_backend(pid, 5000)"
	}
	return "pg_catalog.pg_terminate_backend(pid)"
}

func (p *plan) endSessions(logins []string, facts Facts) {
	if len(logins) > 0 {
		p.add("end sessions of the logins", "SELECT %s FROM pg_catalog.pg_stat_activity WHERE usename IN (%s)", terminate(facts), literals(logins))
	}
}

// Marked is a database or role that carries a marker of berth.
type Marked struct {
	Kind   string // database or role
	Name   string
	Owner  string // of a database
	Marker Marker
}

// Marked lists everything on the server that carries a marker, of any cluster.
func (s *Server) Marked(ctx context.Context) ([]Marked, error) {
	var found []Marked
	err := s.read(ctx, "listing marked objects", func(ctx context.Context, conn *pgx.Conn, _ Facts) error {
		rows, err := conn.Query(ctx, `
			SELECT 'database', datname::text, pg_get_userbyid(datdba)::text, description
			FROM pg_database d JOIN pg_shdescription c ON c.objoid = d.oid AND c.classoid = 'pg_database'::regclass
			WHERE description LIKE 'berth: %'
			UNION ALL
			SELECT 'role', rolname::text, '', description
			FROM pg_roles r JOIN pg_shdescription c ON c.objoid = r.oid AND c.classoid = 'pg_authid'::regclass
			WHERE description LIKE 'berth: %'
			ORDER BY 1, 2`)
		if err != nil {
			return err
		}
		var m Marked
		var comment string
		_, err = pgx.ForEachRow(rows, []any{&m.Kind, &m.Name, &m.Owner, &comment}, func() error {
			if marker, ok := ParseMarker(comment); ok {
				m.Marker = marker
				found = append(found, m)
			}
			return nil
		})
		return err
	})
	return found, err
}
