package replication

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// clean drops from one side everything of the migration that is not the
// tenant's: links, slots, publication, logins, and last the schema that tells
// of them. A database that is gone is clean.
func (s Side) clean(ctx context.Context, name string) error {
	if err := s.unsubscribeAll(ctx, name); err != nil {
		return err
	}
	var slots, logins []string
	err := s.outside(ctx, "listing what a migration left", func(ctx context.Context, conn *pgx.Conn) error {
		// A slot of the same name may, on one server, serve the other database.
		return conn.QueryRow(ctx, `SELECT ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE starts_with(slot_name::text, $1) AND database = $2),
			ARRAY(SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, $1))`, name+"_", s.Admin.Database).Scan(&slots, &logins)
	})
	if err != nil {
		return err
	}
	for _, slot := range slots {
		if err := s.DropSlot(ctx, slot); err != nil {
			return err
		}
	}
	for _, login := range logins {
		if err := s.dropLogin(ctx, login); err != nil {
			return err
		}
	}
	err = s.within(ctx, "dropping what a migration left", func(ctx context.Context, conn *pgx.Conn) error {
		return exec(ctx, conn, "DROP PUBLICATION IF EXISTS "+ident(name), "DROP SCHEMA IF EXISTS "+ident(name)+" CASCADE")
	})
	return ignoreMissingDatabase(err)
}

// Abort leaves the source as it was before the migration: open, and without
// anything of it. What was begun on the target is dropped. It refuses once the
// source was left for the target.
func (p Pair) Abort(ctx context.Context) error {
	standing, err := p.From.ReadStanding(ctx, p.Name)
	if err != nil {
		return err
	}
	if standing.Outcome == Moved {
		return errors.New("aborting: the target serves; roll back instead")
	}
	if standing.Exists {
		if err := p.From.Return(ctx, p.Name); err != nil {
			return err
		}
		if err := p.abandonTarget(ctx); err != nil {
			return err
		}
	}
	return p.From.retire(ctx, p.Name)
}

// abandonTarget drops what the source's records say was made on the target.
func (p Pair) abandonTarget(ctx context.Context) error {
	begun, err := p.From.did(ctx, p.Name, targetBegun)
	if err != nil {
		return err
	}
	if begun {
		if err := p.dropTarget(ctx); err != nil {
			return err
		}
	}
	if err := p.To.clean(ctx, p.Name); err != nil {
		return err
	}
	return p.dropRoles(ctx)
}

// retire undoes before it cleans: what tells how to undo goes with the rest.
func (s Side) retire(ctx context.Context, name string) error {
	if err := s.Undo(ctx, name); err != nil {
		return ignoreMissingDatabase(err)
	}
	return s.clean(ctx, name)
}

// Finish ends the link for good. The side that does not serve keeps its data
// and stays closed. Both sides are tried; the error names who is not clean.
func (p Pair) Finish(ctx context.Context) error {
	return errors.Join(p.To.retire(ctx, p.Name), p.From.retire(ctx, p.Name))
}
