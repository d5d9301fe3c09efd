package replication

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Progress of the copy under one link.
type Progress struct {
	Tables, TablesDone int
	Bytes, BytesDone   int64
	Errors             int64 // of applying and copying, so far
}

// Done reports whether every table is copied and follows.
func (p Progress) Done() bool { return p.Tables > 0 && p.TablesDone == p.Tables }

// Percent of the bytes, 100 only when all is done.
func (p Progress) Percent() int {
	switch {
	case p.Done():
		return 100
	case p.Bytes == 0:
		return 0
	}
	return int(min(99, p.BytesDone*100/p.Bytes))
}

// Left estimates the rest from what elapsed brought; 0 is unknown.
func (p Progress) Left(elapsed time.Duration) time.Duration {
	if p.BytesDone <= 0 || p.Done() {
		return 0
	}
	rest := float64(p.Bytes-p.BytesDone) / float64(p.BytesDone)
	return time.Duration(max(0, rest) * float64(elapsed)).Round(time.Second)
}

// ReadProgress joins what the target says of its tables with the sizes that
// the source knows.
func (p Pair) ReadProgress(ctx context.Context, number int64) (Progress, error) {
	sizes := map[string]int64{}
	err := p.From.within(ctx, "reading table sizes", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT format('%I.%I', n.nspname, c.relname), pg_table_size(c.oid) FROM pg_publication p
			JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1`, p.Name)
		if err != nil {
			return err
		}
		var name string
		var size int64
		_, err = pgx.ForEachRow(rows, []any{&name, &size}, func() error { sizes[name] = size; return nil })
		return err
	})
	if err != nil {
		return Progress{}, err
	}
	var out Progress
	err = p.To.within(ctx, "reading the copy's progress", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT format('%I.%I', n.nspname, c.relname), r.srsubstate::text, coalesce(y.bytes_processed, 0)
			FROM pg_subscription s JOIN pg_subscription_rel r ON r.srsubid = s.oid JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace
			LEFT JOIN pg_stat_progress_copy y ON y.relid = r.srrelid AND y.datname = current_database() WHERE s.subname = $1`, p.Link(number))
		if err != nil {
			return err
		}
		var name, state string
		var copied int64
		_, err = pgx.ForEachRow(rows, []any{&name, &state, &copied}, func() error {
			out.Tables++
			out.Bytes += sizes[name]
			switch state {
			case "r":
				out.TablesDone++
				out.BytesDone += sizes[name]
			case "f", "s":
				out.BytesDone += sizes[name]
			default:
				out.BytesDone += min(copied, sizes[name])
			}
			return nil
		})
		if err != nil {
			return err
		}
		return conn.QueryRow(ctx, "SELECT coalesce(sum(apply_error_count + sync_error_count), 0) FROM pg_stat_subscription_stats WHERE subname = $1", p.Link(number)).Scan(&out.Errors)
	})
	return out, err
}

// Retention is the WAL that a migration keeps a server from removing.
type Retention struct {
	Slot   string
	Bytes  int64
	Status string // as pg_replication_slots.wal_status
	Safe   int64  // bytes until the server gives the slot up; -1 is never
}

// ReadRetention is that of the migration's slot that keeps most.
func (s Side) ReadRetention(ctx context.Context, name string) (Retention, error) {
	var out Retention
	err := s.outside(ctx, "reading kept WAL", func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT slot_name::text, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, coalesce(wal_status, ''), coalesce(safe_wal_size, -1)
			FROM pg_replication_slots s JOIN pg_database d ON d.datname = s.database
			WHERE d.datname = $2 AND (starts_with(slot_name::text, $1) OR slot_name::text ~ '^pg_[0-9]+_sync_')
			ORDER BY coalesce(wal_status, '') = 'lost' DESC, 2 DESC LIMIT 1`, name+"_", s.Admin.Database)
		if err != nil {
			return err
		}
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Retention])
		if len(found) > 0 {
			out = found[0]
		}
		return err
	})
	return out, err
}

// DecideRetention says why a migration has to end, so that the source keeps
// its disk; empty while it may go on. Limit is in bytes, 0 is none.
func DecideRetention(r Retention, limit int64) string {
	switch {
	case r.Status == "lost" || r.Status == "unreserved":
		return fmt.Sprintf("The source has given up the WAL of slot %s (max_slot_wal_keep_size); the copy has to start over.", r.Slot)
	case limit > 0 && r.Bytes > limit:
		return fmt.Sprintf("Slot %s keeps %d MB of WAL on the source, more than the limit of %d MB.", r.Slot, r.Bytes>>20, limit>>20)
	}
	return ""
}
