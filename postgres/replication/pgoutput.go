package replication

import (
	"encoding/binary"
	"errors"
)

// errMalformed is a message of the replication stream that ends too soon.
var errMalformed = errors.New("the replication stream holds a message that is cut short")

// relation is what the stream says of a table before its first change.
type relation struct {
	schema, name string
	columns      []column
}

type column struct {
	name string
	key  bool
}

// value is one column of a row in the stream.
type value struct {
	text    string
	null    bool
	missing bool // not sent: a large value that did not change
}

// change is one message of protocol version 1 that tells of rows.
type change struct {
	kind      byte // R, I, U, D or T; others are not reported
	id        uint32
	relation  *relation // of R
	old, new  []value
	truncated []uint32
}

// reader takes values off a message; after an error it yields zeros.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || len(r.rest) < n {
		r.short, r.rest = true, nil
		return make([]byte, max(0, min(n, 8)))
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) byte() byte     { return r.take(1)[0] }
func (r *reader) uint16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) uint32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }

func (r *reader) text() string {
	for i, b := range r.rest {
		if b == 0 {
			out := string(r.rest[:i])
			r.rest = r.rest[i+1:]
			return out
		}
	}
	r.short, r.rest = true, nil
	return ""
}

func (r *reader) row() []value {
	var out []value
	for range r.uint16() {
		if r.short {
			break
		}
		switch r.byte() {
		case 'n':
			out = append(out, value{null: true})
		case 'u':
			out = append(out, value{missing: true})
		default:
			out = append(out, value{text: string(r.take(int(r.uint32())))})
		}
	}
	return out
}

// parse reads one message of plugin pgoutput.
func parse(message []byte) (change, error) {
	r := &reader{rest: message}
	c := change{kind: r.byte()}
	switch c.kind {
	case 'R':
		c.id, c.relation = r.uint32(), &relation{schema: r.text(), name: r.text()}
		r.byte()
		for range r.uint16() {
			if r.short {
				break
			}
			key := r.byte()&1 == 1
			c.relation.columns = append(c.relation.columns, column{r.text(), key})
			r.take(8)
		}
	case 'I', 'U', 'D':
		c.id = r.uint32()
		for len(r.rest) > 0 {
			if r.byte() == 'N' {
				c.new = r.row()
			} else {
				c.old = r.row()
			}
		}
	case 'T':
		n := r.uint32()
		r.byte()
		for range n {
			if r.short {
				break
			}
			c.truncated = append(c.truncated, r.uint32())
		}
	}
	if r.short {
		return change{}, errMalformed
	}
	return c, nil
}

// key is the value of the key columns in row; false when one was not sent.
func (r *relation) key(row []value) ([]string, bool) {
	var out []string
	for i, c := range r.columns {
		if !c.key {
			continue
		}
		if i >= len(row) || row[i].missing || row[i].null {
			return nil, false
		}
		out = append(out, row[i].text)
	}
	return out, len(out) > 0
}
