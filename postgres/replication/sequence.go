package replication

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Sequences copies the exact state of every sequence, uncalled ones included.
// The statements are prepared outside the pause: planning them takes longer
// than running them.
type Sequences struct {
	from, to *pgx.Conn
	none     bool
}

const (
	readSequences = "berth_sequences"
	setSequences  = "berth_set_sequences"
)

// PrepareSequences plans both statements and runs them once.
func PrepareSequences(ctx context.Context, from, to *pgx.Conn, name string) (*Sequences, error) {
	var parts []string
	err := from.QueryRow(ctx, `SELECT ARRAY(SELECT format('SELECT %L, last_value, is_called FROM %I.%I', format('%I.%I', n.nspname, c.relname), n.nspname, c.relname)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND `+tenantSchema(name)+` ORDER BY c.oid)`).Scan(&parts)
	if err != nil {
		return nil, fmt.Errorf("reading sequences: %w", err)
	}
	s := &Sequences{from: from, to: to, none: len(parts) == 0}
	if s.none {
		return s, nil
	}
	if _, err := from.Prepare(ctx, readSequences, strings.Join(parts, " UNION ALL ")); err != nil {
		return nil, fmt.Errorf("preparing to read sequences: %w", err)
	}
	if _, err := to.Prepare(ctx, setSequences, "SELECT count(setval(s::regclass, v, c)) FROM unnest($1::text[], $2::bigint[], $3::bool[]) x(s, v, c)"); err != nil {
		return nil, fmt.Errorf("preparing to set sequences: %w", err)
	}
	return s, s.Copy(ctx)
}

// Copy brings the target's sequences to where the source's are.
func (s *Sequences) Copy(ctx context.Context) error {
	if s.none {
		return nil
	}
	rows, err := s.from.Query(ctx, readSequences)
	if err != nil {
		return fmt.Errorf("reading sequences: %w", err)
	}
	var names []string
	var values []int64
	var called []bool
	var name string
	var value int64
	var is bool
	_, err = pgx.ForEachRow(rows, []any{&name, &value, &is}, func() error {
		names, values, called = append(names, name), append(values, value), append(called, is)
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading sequences: %w", err)
	}
	n := 0
	if err := s.to.QueryRow(ctx, setSequences, names, values, called).Scan(&n); err != nil {
		return fmt.Errorf("setting sequences: %w", err)
	}
	return nil
}
