package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrReturned means that the side is, or will be at once, open to its clients
// again: the attempt to switch is over, and nothing was decided.
var ErrReturned = errors.New("the database was given back to its clients")

// fenceSet is the notice that tells that the fence is on disk.
const fenceSet = "berth: fenced"

// Fence closes one database to its clients for the pause of a switch. The
// server itself undoes it when the pause outlives its guard: the session that
// sets the fence sleeps, and then opens the database unless something was
// decided, whatever has become of the process that asked.
type Fence struct {
	Attempt int64

	side    Side
	name    string
	control *pgx.Conn
	guard   *pgx.Conn
	notices chan struct{}
	ended   chan struct{} // closed when the guard has done its duty
	err     error
}

// PrepareFence opens the sessions, which is impossible later.
func PrepareFence(ctx context.Context, side Side, name string, attempt int64) (*Fence, error) {
	f := &Fence{Attempt: attempt, side: side, name: name, notices: make(chan struct{}, 1)}
	cfg, err := side.config(side.Admin.Database)
	if err != nil {
		return nil, err
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		if notice.Message == fenceSet {
			f.notices <- struct{}{}
		}
	}
	cfg.RuntimeParams["client_connection_check_interval"] = "0" // the guard outlives its client
	limited, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if f.guard, err = pgx.ConnectConfig(limited, cfg); err != nil {
		return nil, fmt.Errorf("opening the fence's guard on %s: %w", side.Admin.Address(), err)
	}
	f.control, err = side.Open(ctx)
	if err == nil { // 17 brought one more limit that would end the guard
		err = exec(ctx, f.guard, "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'")
	}
	if err != nil {
		f.End()
		return nil, fmt.Errorf("preparing the fence on %s: %w", side.Admin.Address(), err)
	}
	return f, nil
}

// Sessions are the fence's own, by process id.
func (f *Fence) Sessions() []uint32 {
	return []uint32{f.guard.PgConn().PID(), f.control.PgConn().PID()}
}

// Set closes the database to new sessions. After at most hold the server opens
// it again by itself, unless Leave was called. A guard that is cancelled, as a
// client's library does when it loses its connection, opens it at once.
func (f *Fence) Set(ctx context.Context, hold time.Duration) error {
	state := ident(f.name, "state")
	alter := "EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT %s', current_database(), "
	sql := fmt.Sprintf(`DO $guard$ DECLARE before int; BEGIN
		UPDATE %[1]s SET attempt = %[2]d, outcome = 'open' WHERE attempt < %[2]d AND outcome <> 'moved' RETURNING conn_limit INTO STRICT before;
		%[3]s 0);
		COMMIT;
		BEGIN RAISE NOTICE '%[4]s'; PERFORM pg_sleep(%[5]f); EXCEPTION WHEN query_canceled THEN NULL; END;
		UPDATE %[1]s SET outcome = 'returned' WHERE attempt = %[2]d AND outcome = 'open';
		IF FOUND THEN %[3]s before); END IF;
	END $guard$`, state, f.Attempt, alter, fenceSet, hold.Seconds())
	f.ended = make(chan struct{})
	go func() {
		defer close(f.ended)
		// Its end is the server's business: the guard outlives ctx.
		f.err = exec(context.WithoutCancel(ctx), f.guard, sql)
	}()
	select {
	case <-f.notices:
		return nil
	case <-f.ended:
		return fmt.Errorf("fencing %s: %w", f.side.Admin.Address(), errors.Join(f.err, ErrReturned))
	case <-ctx.Done():
		return fmt.Errorf("fencing %s: %w", f.side.Admin.Address(), ctx.Err())
	}
}

// Sweep ends every client's session but those of keep, until none is left, and
// counts them. What they had not committed is rolled back.
func (f *Fence) Sweep(ctx context.Context, keep []uint32) (int, error) {
	ids := make([]int32, len(keep))
	for i, pid := range keep {
		ids[i] = int32(pid)
	}
	ended, quiet := map[int32]bool{}, 0
	err := poll(ctx, time.Millisecond, func() (bool, error) {
		rows, err := f.control.Query(ctx, `SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND NOT pid = ANY($1::int[]) AND backend_type IN ('client backend', 'parallel worker')`, ids)
		if err != nil {
			return false, err
		}
		quiet++
		var pid int32
		var told bool // false when it had just ended by itself
		_, err = pgx.ForEachRow(rows, []any{&pid, &told}, func() error { ended[pid], quiet = true, 0; return nil })
		return quiet == 2, err
	})
	if err != nil {
		return len(ended), fmt.Errorf("ending sessions on %s: %w", f.side.Admin.Address(), err)
	}
	return len(ended), nil
}

// Leave decides, on this side's disk, that its clients go to the other side. It
// is ErrReturned when the guard was faster. With any other error nobody knows:
// ReadStanding tells.
func (f *Fence) Leave(ctx context.Context) error {
	tag, err := f.control.Exec(ctx, "UPDATE "+ident(f.name, "state")+" SET outcome = 'moved' WHERE attempt = $1 AND outcome = 'open'", f.Attempt)
	if err != nil {
		return fmt.Errorf("leaving %s: %w", f.side.Admin.Address(), err)
	}
	if tag.RowsAffected() == 0 {
		return ErrReturned
	}
	return nil
}

// Return opens the database to its clients, unless it was left.
func (f *Fence) Return(ctx context.Context) error {
	if f.control.IsClosed() {
		return f.side.Return(ctx, f.name)
	}
	if err := giveBack(ctx, f.control, f.name); err != nil {
		return fmt.Errorf("giving %s back: %w", f.side.Admin.Address(), err)
	}
	return nil
}

// End closes the fence's sessions; the guard's work goes on in the server.
func (f *Fence) End() {
	if f.control != nil {
		closeConn(f.control)
	}
	if f.ended == nil {
		closeConn(f.guard)
		return
	}
	// A polite end would wait for what goes on in the server.
	_ = f.guard.PgConn().Conn().Close()
	<-f.ended
}

// Return opens a side that was fenced and not left: what a crash may leave.
func (s Side) Return(ctx context.Context, name string) error {
	return s.within(ctx, "giving the database back", func(ctx context.Context, conn *pgx.Conn) error {
		return giveBack(ctx, conn, name)
	})
}

// giveBack serialises with the guard through the row that both change.
func giveBack(ctx context.Context, conn *pgx.Conn, name string) error {
	return reopen(ctx, conn, name, "outcome = 'returned' WHERE outcome = 'open'")
}

// OpenDoors lets clients in on the side that the other one was left for.
func OpenDoors(ctx context.Context, conn *pgx.Conn, name string) error {
	return reopen(ctx, conn, name, "outcome = ''")
}

func reopen(ctx context.Context, conn *pgx.Conn, name, change string) error {
	return exec(ctx, conn, fmt.Sprintf(`DO $open$ DECLARE before int; BEGIN
		UPDATE %s SET %s RETURNING conn_limit INTO before;
		IF FOUND THEN EXECUTE format('ALTER DATABASE %%I CONNECTION LIMIT %%s', current_database(), before); END IF;
	END $open$`, ident(name, "state"), change))
}

// Close keeps clients out of a side that does not serve.
func (s Side) Close(ctx context.Context) error {
	return s.outside(ctx, "closing the database", func(ctx context.Context, conn *pgx.Conn) error {
		return exec(ctx, conn, "ALTER DATABASE "+ident(s.Admin.Database)+" CONNECTION LIMIT 0")
	})
}
