package replication

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Checker compares the content of both sides while they are written to. It
// reads every row once; from then on it compares only the rows that differed
// and those whose key the collector saw change, until none is left.
type Checker struct {
	pair      Pair
	collector *Collector
	from, to  *pgx.Conn
	tables    map[string]table
	open      map[string]*touched // still to be found equal
}

// NewChecker starts collecting on the source; nothing is compared yet.
func NewChecker(ctx context.Context, p Pair) (*Checker, error) {
	collector, err := Collect(ctx, p.From, p.Name)
	if err != nil {
		return nil, err
	}
	k := &Checker{pair: p, collector: collector, tables: map[string]table{}, open: map[string]*touched{}}
	err = k.Reconnect(ctx)
	var list []table
	if err == nil {
		list, err = readTables(ctx, k.from, p.Name)
	}
	if err != nil {
		k.Close()
		return nil, fmt.Errorf("preparing the content check: %w", err)
	}
	for _, t := range list {
		k.tables[t.id()] = t
	}
	return k, nil
}

// Reconnect opens the sessions again that an earlier look lost, as one does
// whose time ran out. What was still to be compared is kept.
func (k *Checker) Reconnect(ctx context.Context) (err error) {
	if k.from == nil || k.from.IsClosed() {
		if k.from, err = k.pair.From.Open(ctx); err != nil {
			return err
		}
	}
	if k.to == nil || k.to.IsClosed() {
		k.to, err = k.pair.To.Open(ctx)
	}
	return err
}

// Await returns when the mark is on the target, and every change before it is
// known here.
func (k *Checker) Await(ctx context.Context, mark int64) error {
	return both(func() error { return AwaitMark(ctx, k.to, k.pair.Name, mark) }, func() error { return k.collector.Await(ctx, mark) })
}

// Late counts changes that committed after the newest mark.
func (k *Checker) Late() int { return k.collector.Late() }

// Sessions are the checker's own on the source, by process id.
func (k *Checker) Sessions() []uint32 { return []uint32{k.from.PgConn().PID()} }

// Close ends the checker's sessions.
func (k *Checker) Close() {
	k.collector.Close()
	for _, conn := range []*pgx.Conn{k.from, k.to} {
		if conn != nil {
			closeConn(conn)
		}
	}
}

// Full reads every row on both sides. What differs is looked at again.
func (k *Checker) Full(ctx context.Context) error {
	for _, t := range k.tables {
		if err := k.whole(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// whole compares all of one table, and keeps what differs.
func (k *Checker) whole(ctx context.Context, t table) error {
	keys, equal, err := t.compare(ctx, k.from, k.to)
	if err != nil {
		return err
	}
	k.keep(t.id(), keys, !equal)
	return nil
}

func (k *Checker) keep(id string, keys []string, all bool) {
	if len(keys) == 0 && !all {
		return
	}
	if k.open[id] == nil {
		k.open[id] = &touched{keys: map[string]bool{}}
	}
	k.open[id].all = k.open[id].all || all
	for _, key := range keys {
		k.open[id].keys[key] = true
	}
}

// Round compares again what was touched or differed, and says how many rows
// and whole tables still do. Rows on their way make it positive for a moment.
func (k *Checker) Round(ctx context.Context) (rows, tables int, err error) {
	changed, err := k.collector.take()
	for id, t := range changed {
		k.keep(id, keysOf(t), t.all)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("collecting changes: %w", err)
	}
	open := k.open
	k.open = map[string]*touched{}
	for id, what := range open {
		t, known := k.tables[id]
		if !known {
			continue
		}
		if what.all || len(t.Columns) == 0 {
			err = k.whole(ctx, t)
		} else {
			var keys []string
			keys, err = t.compareKeys(ctx, k.from, k.to, keysOf(what))
			k.keep(id, keys, false)
		}
		if err != nil {
			for id, what := range open { // nothing that was to be compared is forgotten
				k.keep(id, keysOf(what), what.all)
			}
			return 0, 0, err
		}
	}
	for _, what := range k.open {
		rows += len(what.keys)
		if what.all {
			tables++
		}
	}
	return rows, tables, nil
}

func keysOf(t *touched) []string {
	out := make([]string, 0, len(t.keys))
	for key := range t.keys {
		out = append(out, key)
	}
	return out
}

// Differing names the tables that still differ, at most ten.
func (k *Checker) Differing() []string {
	var out []string
	for id := range k.open {
		out = append(out, id)
	}
	slices.Sort(out)
	return out[:min(len(out), 10)]
}
