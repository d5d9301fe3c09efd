package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// keepIdle is how long an unused connection stays open.
const keepIdle = 30 * time.Second

var errClosed = errors.New("the pool of this server is closed")

// Server is the administrator's access to one server. When the server is dead,
// one goroutine at a time learns so within 3 s, and every other call fails at
// once with ErrUnreachable. It is safe for concurrent use.
type Server struct {
	target  Target
	limits  Limits
	breaker breaker
	slots   chan struct{} // one per administrator's connection that changes things
	readers chan struct{} // one per connection that only reads, so that reads do not queue behind CREATE DATABASE
	tenants chan struct{} // one per connection into a tenant's database

	mu     sync.Mutex
	closed bool
	idle   []idleConn // the last one was used last
	reaper *time.Timer
	facts  *Facts
}

type idleConn struct {
	conn  *pgx.Conn
	since time.Time
}

func newServer(t Target, limits Limits) *Server {
	return &Server{
		target: t, limits: limits,
		slots:   make(chan struct{}, limits.Connections),
		readers: make(chan struct{}, max(1, limits.Connections/4)),
		tenants: make(chan struct{}, limits.Concurrency),
	}
}

// Target is where the server is, password included.
func (s *Server) Target() Target { return s.target }

// admin lends a connection to the maintenance database to work.
func (s *Server) admin(ctx context.Context, work func(context.Context, *pgx.Conn) error) error {
	return s.lend(ctx, s.slots, work)
}

func (s *Server) lend(ctx context.Context, slots chan struct{}, work func(context.Context, *pgx.Conn) error) error {
	if err := s.breaker.refused(); err != nil {
		return err
	}
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-slots }()
	conn, err := s.contact(ctx)
	if err != nil {
		return err
	}
	defer s.release(conn)
	return work(ctx, conn)
}

// contact finds a connection that works. Unless the server has just answered
// somebody, only one goroutine does so at a time.
func (s *Server) contact(ctx context.Context) (*pgx.Conn, error) {
	conn, err := s.takeIdle()
	if err != nil {
		return nil, err
	}
	if conn != nil && s.breaker.fresh() {
		return conn, nil
	}
	if err := s.breaker.enter(ctx); err != nil {
		if conn != nil {
			s.release(conn)
		}
		if errors.Is(err, errNoAnswerYet) {
			err = &contactError{s.target.Address(), context.DeadlineExceeded}
		}
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if conn != nil && conn.Ping(limited) == nil {
		s.breaker.leave(ctx, nil)
		return conn, nil
	}
	if conn != nil {
		discard(conn)
		s.closeIdle()
	}
	conn, err = s.connect(limited, s.target)
	s.breaker.leave(ctx, err)
	return conn, err
}

// connect makes one connection; ctx should end within the connect timeout.
func (s *Server) connect(ctx context.Context, t Target) (*pgx.Conn, error) {
	cfg, err := t.ConnConfig()
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["statement_timeout"] = strconv.FormatInt(s.limits.StatementTimeout.Milliseconds(), 10)
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, &contactError{t.Address(), err}
	}
	return conn, nil
}

// tenant lends a new connection to database as the administrator.
func (s *Server) tenant(ctx context.Context, database string, work func(context.Context, *pgx.Conn) error) error {
	t := s.target
	t.Database = database
	return s.as(ctx, t, work)
}

// as never dials a server that has not answered lately: the one goroutine that
// finds out does so through the administrator's pool.
func (s *Server) as(ctx context.Context, t Target, work func(context.Context, *pgx.Conn) error) error {
	if !s.breaker.fresh() {
		if err := s.admin(ctx, func(context.Context, *pgx.Conn) error { return nil }); err != nil {
			return err
		}
	}
	select {
	case s.tenants <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.tenants }()
	limited, cancel := context.WithTimeout(ctx, connectTimeout)
	conn, err := s.connect(limited, t)
	cancel()
	if err != nil {
		return fmt.Errorf("opening database %s: %w", t.Database, err)
	}
	defer discard(conn)
	return work(ctx, conn)
}

// bounded limits one round trip, for a server that answers no more.
func (s *Server) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 2*s.limits.StatementTimeout)
}

func (s *Server) takeIdle() (*pgx.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if len(s.idle) == 0 {
		return nil, nil
	}
	last := s.idle[len(s.idle)-1]
	s.idle = s.idle[:len(s.idle)-1]
	return last.conn, nil
}

// release takes a connection back when another may use it as it is.
func (s *Server) release(conn *pgx.Conn) {
	if conn.IsClosed() || conn.PgConn().TxStatus() != 'I' {
		discard(conn)
		// What broke one connection has probably broken the others.
		s.closeIdle()
		s.breaker.doubt()
		return
	}
	s.breaker.answered()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		discard(conn)
		return
	}
	s.idle = append(s.idle, idleConn{conn, time.Now()})
	if s.reaper == nil {
		s.reaper = time.AfterFunc(keepIdle, s.reap)
	}
}

// reap closes what has been idle for long, and comes again while any is left.
func (s *Server) reap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.idle) > 0 && time.Since(s.idle[0].since) >= keepIdle {
		discard(s.idle[0].conn)
		s.idle = s.idle[1:]
	}
	s.reaper = nil
	if len(s.idle) > 0 {
		s.reaper = time.AfterFunc(keepIdle, s.reap)
	}
}

func (s *Server) closeIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.idle {
		discard(i.conn)
	}
	s.idle = nil
	if s.reaper != nil {
		s.reaper.Stop()
		s.reaper = nil
	}
}

func (s *Server) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.closeIdle()
}

// discard closes with a goodbye, but does not wait for a server that may be gone.
func discard(conn *pgx.Conn) {
	limited, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = conn.Close(limited)
}
