package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// keysKept bounds what is remembered of one table; beyond it the table counts
// as changed in all its rows.
const keysKept = 200_000

// touched is what the stream told of one table.
type touched struct {
	keys map[string]bool
	all  bool // truncated, or too much, or rows without a key
}

// Collector reads a side's changes as they commit and keeps the keys of the
// rows they touched. Its slot is temporary: it is gone with the session.
type Collector struct {
	name string
	conn *pgconn.PgConn
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	tables map[string]*touched
	marker int64         // of the newest marker seen
	late   int           // changes after it
	moved  chan struct{} // closed and renewed with each marker
	err    error
}

// Collect starts a collector. The slot's making waits for every transaction
// that is writing now.
func Collect(ctx context.Context, s Side, name string) (*Collector, error) {
	cfg, err := s.config(s.Admin.Database)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["replication"] = "database"
	limited, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(limited, &cfg.Config)
	if err != nil {
		return nil, fmt.Errorf("opening a replication session on %s: %w", s.Admin.Address(), err)
	}
	c := &Collector{name: name, conn: conn, done: make(chan struct{}), tables: map[string]*touched{}, moved: make(chan struct{})}
	if err := c.begin(ctx); err != nil {
		_ = conn.Conn().Close()
		return nil, fmt.Errorf("collecting changes on %s: %w", s.Admin.Address(), err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	go func() {
		defer close(c.done)
		err := c.read(running)
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
	}()
	return c, nil
}

func (c *Collector) begin(ctx context.Context) error {
	slot := c.name + "_watch_" + strconv.FormatUint(uint64(c.conn.PID()), 10)
	if _, err := c.conn.Exec(ctx, "CREATE_REPLICATION_SLOT "+ident(slot)+" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT").ReadAll(); err != nil {
		return err
	}
	c.conn.Frontend().SendQuery(&pgproto3.Query{String: "START_REPLICATION SLOT " + ident(slot) + " LOGICAL 0/0 (proto_version '1', publication_names " + literal(ident(c.name)) + ")"})
	if err := c.conn.Frontend().Flush(); err != nil {
		return err
	}
	for {
		message, err := c.conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		}
	}
}

// Close ends the session, and with it the slot.
func (c *Collector) Close() {
	c.stop()
	<-c.done
	_ = c.conn.Conn().Close()
}

// reportEvery keeps the server from taking the collector for dead, and lets it
// forget what was read.
const reportEvery = time.Second

func (c *Collector) read(ctx context.Context) error {
	relations := map[uint32]*relation{}
	var position uint64
	next := time.Now()
	for {
		if !time.Now().Before(next) {
			if err := c.report(position); err != nil {
				return err
			}
			next = time.Now().Add(reportEvery)
		}
		limited, cancel := context.WithDeadline(ctx, next)
		message, err := c.conn.ReceiveMessage(limited)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && pgconn.Timeout(err):
			continue
		case err != nil:
			return err
		}
		switch m := message.(type) {
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.CopyData:
			if m.Data[0] == 'k' && len(m.Data) >= 18 {
				position = max(position, binary.BigEndian.Uint64(m.Data[1:]))
				if m.Data[17] == 1 {
					next = time.Now()
				}
			}
			if m.Data[0] != 'w' || len(m.Data) < 25 {
				continue
			}
			position = max(position, binary.BigEndian.Uint64(m.Data[1:]))
			message, err := parse(m.Data[25:])
			if err != nil {
				return err
			}
			c.note(message, relations)
		}
	}
}

// report sends how far the stream was read.
func (c *Collector) report(position uint64) error {
	data := make([]byte, 34)
	data[0] = 'r'
	for i := range 3 {
		binary.BigEndian.PutUint64(data[1+8*i:], position)
	}
	c.conn.Frontend().Send(&pgproto3.CopyData{Data: data})
	return c.conn.Frontend().Flush()
}

func (c *Collector) note(m change, relations map[uint32]*relation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m.kind {
	case 'R':
		relations[m.id] = m.relation
	case 'T':
		for _, id := range m.truncated {
			if r := relations[id]; r != nil {
				c.late++
				c.of(r).all = true
			}
		}
	case 'I', 'U', 'D':
		if r := relations[m.id]; r != nil && r.schema == c.name {
			c.mark(m)
		} else if r != nil {
			c.late++
			c.of(r).add(r, m)
		}
	}
}

// mark takes the marker's new number.
func (c *Collector) mark(m change) {
	if len(m.new) < 2 {
		return
	}
	n, err := strconv.ParseInt(m.new[1].text, 10, 64)
	if err != nil || n <= c.marker {
		return
	}
	c.marker, c.late = n, 0
	close(c.moved)
	c.moved = make(chan struct{})
}

func (c *Collector) of(r *relation) *touched {
	id := ident(r.schema, r.name)
	if c.tables[id] == nil {
		c.tables[id] = &touched{keys: map[string]bool{}}
	}
	return c.tables[id]
}

func (t *touched) add(r *relation, m change) {
	old, hasOld := r.key(m.old)
	if hasOld {
		t.keys[joinKey(old)] = true
	}
	if m.new != nil {
		if key, ok := r.key(m.new); ok {
			t.keys[joinKey(key)] = true
		} else if !hasOld {
			t.all = true
		}
	}
	if m.new == nil && !hasOld {
		t.all = true
	}
	if len(t.keys) > keysKept {
		t.all, t.keys = true, map[string]bool{}
	}
}

// Take gives what was touched since the last Take.
func (c *Collector) take() (map[string]*touched, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.tables
	c.tables = map[string]*touched{}
	return out, c.err
}

// Await returns once the marker's number n was seen: every change that
// committed before it has been noted.
func (c *Collector) Await(ctx context.Context, n int64) error {
	for {
		c.mu.Lock()
		marker, moved, err := c.marker, c.moved, c.err
		c.mu.Unlock()
		switch {
		case err != nil:
			return fmt.Errorf("collecting changes: %w", err)
		case marker >= n:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("awaiting the marker in the collected changes: %w", ctx.Err())
		case <-c.done:
			return errors.New("collecting changes: the session ended")
		case <-moved:
		}
	}
}

// Late counts changes that committed after the newest marker.
func (c *Collector) Late() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.late
}
