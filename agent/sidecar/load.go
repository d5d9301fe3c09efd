package sidecar

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/postgres"
)

// Work is one piece of what a client does over its connection.
type Work func(context.Context, *pgx.Conn) error

// Load is what clients of a proxy saw; its zero value has seen nothing. Read
// it once they have returned.
type Load struct {
	Done, Failed int           // pieces of work
	First        error         // of the failures
	Longest      time.Duration // of the pieces that were done

	mu sync.Mutex
}

func (l *Load) note(began time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.Failed++
		l.First = cmp.Or(l.First, err)
		return
	}
	l.Done++
	l.Longest = max(l.Longest, time.Since(began))
}

// Stay works over one connection that is only made anew when it breaks, until
// working ends; the piece that is under way then is finished.
func (l *Load) Stay(ctx, working context.Context, to postgres.Target, every time.Duration, work Work) {
	var conn *pgx.Conn
	l.repeat(working, every, func() (err error) {
		if conn == nil || conn.IsClosed() {
			if conn, err = Connect(ctx, to); err != nil {
				return err
			}
		}
		return work(ctx, conn)
	})
	if conn != nil {
		leave(conn)
	}
}

// ComeAndGo works over a new connection each time.
func (l *Load) ComeAndGo(ctx, working context.Context, to postgres.Target, every time.Duration, work Work) {
	l.repeat(working, every, func() error {
		conn, err := Connect(ctx, to)
		if err != nil {
			return err
		}
		defer leave(conn)
		return work(ctx, conn)
	})
}

func (l *Load) repeat(working context.Context, every time.Duration, piece func() error) {
	pause := time.NewTicker(every)
	defer pause.Stop()
	for working.Err() == nil {
		began := time.Now()
		l.note(began, piece())
		<-pause.C
	}
}

// Connect logs in to; pooled connections keep no prepared statement, and it
// asks for none.
func Connect(ctx context.Context, to postgres.Target) (*pgx.Conn, error) {
	cfg, err := to.ConnConfig()
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting as %s: %w", to.User, err)
	}
	return conn, nil
}

// leave says goodbye, and does not wait for long.
func leave(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // all was answered
}
