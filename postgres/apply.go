package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// chunk bounds how many statements share a transaction, and so its locks.
const chunk = 200

// tries bounds how often a plan is run that lost a race in the catalog, such as
// "tuple concurrently updated"; the loser wins as soon as the winner is done.
const tries = 5

// Apply runs statements in order. Neighbours for one database that are not
// Alone travel together, in one transaction. A plan may be replayed from its
// first statement after a crash at any point. The error carries the Note of
// the statement that failed, never its SQL.
func (s *Server) Apply(ctx context.Context, statements []Statement) error {
	for try := 1; ; try++ {
		err := s.applyOnce(ctx, statements)
		if err == nil || try == tries || ctx.Err() != nil || Explain(err).Reason != Busy {
			return err
		}
	}
}

func (s *Server) applyOnce(ctx context.Context, statements []Statement) error {
	for len(statements) > 0 {
		database := statements[0].Database
		n := slices.IndexFunc(statements, func(st Statement) bool { return st.Database != database })
		if n < 0 {
			n = len(statements)
		}
		work := func(ctx context.Context, conn *pgx.Conn) error {
			return s.run(ctx, conn, statements[:n])
		}
		var err error
		if database == "" {
			err = s.admin(ctx, work)
		} else {
			err = s.tenant(ctx, database, work)
			if missingDatabase(err) && s.settled(ctx, statements[:n]) {
				err = nil
			}
		}
		if err != nil {
			return err
		}
		statements = statements[n:]
	}
	return nil
}

// missingDatabase reports that there is no such database to connect to.
func missingDatabase(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Code == "3D000"
}

// settled asks, from outside, whether nothing is left to do in a database that
// is gone.
func (s *Server) settled(ctx context.Context, statements []Statement) bool {
	err := s.admin(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		for _, st := range statements {
			done := false
			if st.Done == "" {
				return pgx.ErrNoRows
			}
			if err := conn.QueryRow(ctx, st.Done).Scan(&done); err != nil || !done {
				return cmp.Or(err, pgx.ErrNoRows)
			}
		}
		return nil
	})
	return err == nil
}

// run sends statements of one database in as few round trips as it may.
func (s *Server) run(ctx context.Context, conn *pgx.Conn, statements []Statement) error {
	for len(statements) > 0 {
		n := 1
		for !statements[0].Alone && n < len(statements) && n < chunk && !statements[n].Alone {
			n++
		}
		if err := s.together(ctx, conn, statements[:n]); err != nil {
			return err
		}
		statements = statements[n:]
	}
	return nil
}

// together sends group as one message: the server makes it one transaction. A
// statement that turns out to be settled is left out of the next try.
func (s *Server) together(ctx context.Context, conn *pgx.Conn, group []Statement) error {
	group = slices.Clone(group)
	for len(group) > 0 {
		done, err := s.send(ctx, conn, group)
		if err == nil {
			return nil
		}
		var answer *pgconn.PgError
		if !errors.As(err, &answer) || done >= len(group) {
			return fmt.Errorf("applying %q: %w", group[min(done, len(group)-1)].Note, s.explainLoss(err))
		}
		failed := group[done]
		settled, asked := false, error(nil)
		if failed.Done != "" && !conn.IsClosed() {
			asked = conn.QueryRow(ctx, failed.Done).Scan(&settled)
		}
		if asked != nil && !errors.Is(asked, pgx.ErrNoRows) || !settled {
			return fmt.Errorf("applying %q: %w", failed.Note, err)
		}
		group = slices.Delete(group, done, done+1)
	}
	return nil
}

func (s *Server) send(ctx context.Context, conn *pgx.Conn, group []Statement) (done int, err error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	parts := make([]string, len(group))
	for i, st := range group {
		parts[i] = st.SQL
	}
	results := conn.PgConn().Exec(ctx, strings.Join(parts, ";\n"))
	for results.NextResult() {
		if _, err := results.ResultReader().Close(); err != nil {
			break
		}
		done++
	}
	return done, results.Close()
}

// explainLoss gives a broken connection the address it went to.
func (s *Server) explainLoss(err error) error {
	var answer *pgconn.PgError
	if errors.As(err, &answer) || errors.Is(err, ErrUnreachable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &contactError{s.target.Address(), err}
}
