package replication

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Publish makes side's publication of the tables that move. Their list is
// explicit, so that a table which an extension or somebody else makes later
// changes nothing; the catalog's fingerprint tells of it.
func (s Side) Publish(ctx context.Context, name string) error {
	return s.within(ctx, "publishing", func(ctx context.Context, conn *pgx.Conn) error {
		exists := false
		var tables []string
		err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1), ARRAY(SELECT format('%I.%I', n.nspname, c.relname) "+
			"FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE "+publishable(name)+" ORDER BY 1)", name).Scan(&exists, &tables)
		if err != nil || exists {
			return err
		}
		tables = append(tables, ident(name, "marker"))
		return exec(ctx, conn, lockWait, "CREATE PUBLICATION "+ident(name)+" FOR TABLE ONLY "+strings.Join(tables, ", ONLY "))
	})
}

// Connect makes link number from p.From to p.To: a login that may do nothing
// but replicate, and the subscription. With copy it begins the copy; without,
// the slot must exist and the link stays off until Enable.
func (p Pair) Connect(ctx context.Context, number int64, copied bool) error {
	link := p.Link(number)
	return p.To.within(ctx, "subscribing", func(ctx context.Context, to *pgx.Conn) error {
		exists := false
		if err := to.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_subscription WHERE subname = $1)", link).Scan(&exists); err != nil || exists {
			return err
		}
		if copied { // a slot without its subscription is what a crash left
			if err := p.From.DropSlot(ctx, link); err != nil {
				return err
			}
		}
		password, verifier := p.NewSecret()
		if err := p.From.openLogin(ctx, link, verifier); err != nil {
			return err
		}
		version := 0
		if err := to.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
			return err
		}
		streaming := "on"
		if version >= 160000 {
			streaming = "parallel"
		}
		options := "slot_name = " + literal(link) + ", streaming = " + streaming
		if !copied {
			options += ", create_slot = false, enabled = false, copy_data = false"
		}
		return quietly(ctx, to, fmt.Sprintf("CREATE SUBSCRIPTION %s CONNECTION %s PUBLICATION %s WITH (%s)",
			ident(link), literal(p.From.conninfo(link, password)), ident(p.Name), options))
	})
}

// openLogin makes the login of a link with the least that a link needs: it
// reads every row, whatever policies say, and writes nothing.
func (s Side) openLogin(ctx context.Context, link, verifier string) error {
	return s.outside(ctx, "making the link's login", func(ctx context.Context, conn *pgx.Conn) error {
		return quietly(ctx, conn,
			"DO $$ BEGIN CREATE ROLE "+ident(link)+"; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
			"ALTER ROLE "+ident(link)+" LOGIN REPLICATION BYPASSRLS PASSWORD "+literal(verifier),
			"GRANT pg_read_all_data TO "+ident(link),
			"GRANT CONNECT ON DATABASE "+ident(s.Admin.Database)+" TO "+ident(link))
	})
}

// conninfo is how the other server reaches this one.
func (s Side) conninfo(user, password string) string {
	t := s.Admin
	t.User, t.Password = user, password
	if s.Host != "" {
		t.Host = s.Host
	}
	if s.Port != 0 {
		t.Port = s.Port
	}
	pairs := []string{"application_name", user, "connect_timeout", "5", "keepalives_idle", "2", "keepalives_interval", "2", "keepalives_count", "3"}
	if s.RootCAFile != "" {
		pairs = append(pairs, "sslrootcert", s.RootCAFile)
	}
	out := t.KeyValue()
	for i := 0; i < len(pairs); i += 2 {
		out += " " + pairs[i] + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(pairs[i+1]) + "'"
	}
	return out
}

// Enable starts link number; nothing may flow the other way any more.
func (p Pair) Enable(ctx context.Context, number int64) error {
	return p.To.within(ctx, "starting the link", func(ctx context.Context, conn *pgx.Conn) error {
		return exec(ctx, conn, "ALTER SUBSCRIPTION "+ident(p.Link(number))+" ENABLE")
	})
}

// Disconnect drops link number on both sides. The origin goes with the
// subscription, so that nothing is ever replayed by it again. A side that does
// not answer is an error, after the other one was cleaned.
func (p Pair) Disconnect(ctx context.Context, number int64) error {
	link := p.Link(number)
	err := p.To.within(ctx, "dropping the subscription", func(ctx context.Context, conn *pgx.Conn) error {
		return unsubscribe(ctx, conn, link)
	})
	return errors.Join(ignoreMissingDatabase(err), p.From.DropSlot(ctx, link), p.From.dropLogin(ctx, link))
}

func unsubscribe(ctx context.Context, conn *pgx.Conn, link string) error {
	exists := false
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_subscription WHERE subname = $1 AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()))",
		link).Scan(&exists); err != nil || !exists {
		return err
	}
	if err := exec(ctx, conn, "ALTER SUBSCRIPTION "+ident(link)+" DISABLE"); err != nil {
		return err
	}
	err := poll(ctx, 20*time.Millisecond, func() (bool, error) {
		idle := false
		err := conn.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM pg_stat_subscription WHERE subname = $1 AND pid IS NOT NULL)", link).Scan(&idle)
		return idle, err
	})
	if err != nil {
		return err
	}
	return exec(ctx, conn, "ALTER SUBSCRIPTION "+ident(link)+" SET (slot_name = NONE)", "DROP SUBSCRIPTION "+ident(link))
}

// DropSlot drops a slot, and those that copying tables under it left; the
// session that reads it is ended first.
func (s Side) DropSlot(ctx context.Context, slot string) error {
	return s.outside(ctx, "dropping slot "+slot, func(ctx context.Context, conn *pgx.Conn) error {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		return poll(ctx, 50*time.Millisecond, func() (bool, error) {
			left, ended := 0, 0
			err := conn.QueryRow(ctx, `SELECT count(*), count(CASE WHEN active_pid IS NOT NULL THEN pg_terminate_backend(active_pid) END)
				FROM pg_replication_slots WHERE slot_name = $1`, slot).Scan(&left, &ended)
			if err != nil || left == 0 {
				return err == nil, err
			}
			err = exec(ctx, conn, "SELECT pg_drop_replication_slot("+literal(slot)+")")
			var answer *pgconn.PgError
			if errors.As(err, &answer) && (answer.Code == "55006" || answer.Code == "42704") { // in use, or gone meanwhile
				err = nil
			}
			return false, err
		})
	})
}

func (s Side) dropLogin(ctx context.Context, link string) error {
	return s.outside(ctx, "dropping the link's login", func(ctx context.Context, conn *pgx.Conn) error {
		exists := false
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", link).Scan(&exists); err != nil || !exists {
			return err
		}
		return exec(ctx, conn, "DROP OWNED BY "+ident(link), "DROP ROLE "+ident(link))
	})
}

// ignoreMissingDatabase takes a database that is gone as clean.
func ignoreMissingDatabase(err error) error {
	var answer *pgconn.PgError
	if errors.As(err, &answer) && answer.Code == "3D000" {
		return nil
	}
	return err
}

// poll asks until what holds, fails, or ctx ends.
func poll(ctx context.Context, every time.Duration, holds func() (bool, error)) error {
	again := time.NewTicker(every)
	defer again.Stop()
	for {
		if ok, err := holds(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-again.C:
		}
	}
}
