package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Mark commits a new number on the side that is written to. It also puts on
// disk whatever committed before without waiting for the disk.
func Mark(ctx context.Context, conn *pgx.Conn, name string) (int64, error) {
	var n int64
	err := conn.QueryRow(ctx, "UPDATE "+ident(name, "marker")+" SET n = n + 1 WHERE id = 1 RETURNING n").Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("marking: %w", err)
	}
	return n, nil
}

// AwaitMark returns when the follower has applied the mark, and so everything
// that committed before it.
func AwaitMark(ctx context.Context, conn *pgx.Conn, name string, n int64) error {
	err := poll(ctx, time.Millisecond, func() (bool, error) {
		var seen int64
		err := conn.QueryRow(ctx, "SELECT n FROM "+ident(name, "marker")+" WHERE id = 1").Scan(&seen)
		if errors.Is(err, pgx.ErrNoRows) {
			err = nil
		}
		return seen >= n, err
	})
	if err != nil {
		return fmt.Errorf("awaiting the mark: %w", err)
	}
	return nil
}

// PrepareReverse makes, while clients write, the slot on the target and the
// subscription on the source that will carry the changes back; it stays off.
// The slot waits for every transaction that is writing on the target now.
func (p Pair) PrepareReverse(ctx context.Context, number int64) error {
	if err := p.To.Publish(ctx, p.Name); err != nil {
		return err
	}
	slot := p.Link(number)
	err := p.To.within(ctx, "making the slot of the way back", func(ctx context.Context, conn *pgx.Conn) error {
		exists := false
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)", slot).Scan(&exists); err != nil || exists {
			return err
		}
		return exec(ctx, conn, "SELECT pg_create_logical_replication_slot("+literal(slot)+", 'pgoutput')")
	})
	if err != nil {
		return err
	}
	return p.Swapped().Connect(ctx, number, false)
}

// Skip moves the slot of the way back to the present, so that less is left to
// read in the pause. A slot is read from the last record of what was running,
// which a server writes every 15 s, or when it is asked to since 16.
func (p Pair) Skip(ctx context.Context, to *pgx.Conn, number int64) error {
	if _, err := to.Exec(ctx, "DO $$ BEGIN PERFORM pg_log_standby_snapshot(); EXCEPTION WHEN undefined_function THEN NULL; END $$"); err != nil {
		return fmt.Errorf("recording what runs: %w", err)
	}
	return p.advance(ctx, to, number)
}

func (p Pair) advance(ctx context.Context, to *pgx.Conn, number int64) error {
	if _, err := to.Exec(ctx, "SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())", p.Link(number)); err != nil {
		return fmt.Errorf("advancing the slot of the way back: %w", err)
	}
	return nil
}

// ErrEcho means that the way back would carry changes to where they came from.
var ErrEcho = errors.New("the way back holds changes that came from the source")

// Cut moves the slot of the way back behind everything that was applied. What
// the link applied may not be on disk yet, and a slot cannot pass what is not:
// the message before forces all of it there.
func (p Pair) Cut(ctx context.Context, to *pgx.Conn, number int64) error {
	if _, err := to.Exec(ctx, "SELECT pg_logical_emit_message(true, 'berth', 'flush')"); err != nil {
		return fmt.Errorf("flushing what was applied: %w", err)
	}
	if err := p.advance(ctx, to, number); err != nil {
		return err
	}
	left := 0
	err := to.QueryRow(ctx, "SELECT count(*) FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', $2)",
		p.Link(number), ident(p.Name)).Scan(&left)
	if err != nil {
		return fmt.Errorf("looking into the way back: %w", err)
	}
	if left > 0 {
		return ErrEcho
	}
	return nil
}

// Reverse drops the link that led to the side that serves now, and starts the
// one back. It never has both on: PostgreSQL 15 cannot tell an echo.
func (p Pair) Reverse(ctx context.Context, number int64) error {
	if err := p.Disconnect(ctx, number); err != nil {
		return err
	}
	return p.Swapped().Enable(ctx, number+1)
}

// Serving says which of two sides has the clients: false is a, where the
// database was before the migration. Each attempt has a higher number, so the
// side that was left last does not serve.
func Serving(a, b Standing) (moved bool) {
	return a.Outcome == Moved && (b.Outcome != Moved || a.Attempt > b.Attempt)
}

// Links are the numbers of the links that exist, on either side. Odd ones lead
// from p.From to p.To, even ones back.
func (p Pair) Links(ctx context.Context) ([]int64, error) {
	found := map[int64]bool{}
	for _, side := range []Side{p.From, p.To} {
		err := side.within(ctx, "listing links", func(ctx context.Context, conn *pgx.Conn) error {
			var names []string
			err := conn.QueryRow(ctx, `SELECT ARRAY(SELECT subname::text FROM pg_subscription WHERE starts_with(subname::text, $1)
				AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()))`, p.Name+"_").Scan(&names)
			for _, name := range names {
				if n, err := strconv.ParseInt(strings.TrimPrefix(name, p.Name+"_"), 10, 64); err == nil {
					found[n] = true
				}
			}
			return err
		})
		if ignoreMissingDatabase(err) != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}
