package testkit

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berth-dev/berth/postgres"
)

// FaultProxy stands in front of a PostgreSQL server, counts what is asked of
// it, and fails as a Fuse or Silence says. It reads the protocol, so clients
// have to use sslmode=disable.
type FaultProxy struct {
	target   postgres.Target
	fuse     *Fuse
	listener net.Listener
	trips    atomic.Int64
	work     sync.WaitGroup

	mu     sync.Mutex
	silent chan struct{} // open while nobody is answered; nil otherwise
	conns  map[net.Conn]bool
	closed bool
}

// NewFaultProxy is a proxy for this test alone. Without a fuse it only counts.
func NewFaultProxy(t testing.TB, target postgres.Target, fuse *Fuse) *FaultProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	if fuse == nil {
		fuse = &Fuse{}
	}
	p := &FaultProxy{target: target, fuse: fuse, listener: l, conns: map[net.Conn]bool{}}
	p.work.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Target is the same access through the proxy.
func (p *FaultProxy) Target() postgres.Target {
	t := p.target
	t.Port = uint16(p.listener.Addr().(*net.TCPAddr).Port)
	return t
}

// RoundTrips is how often anybody asked the server anything, logins aside.
func (p *FaultProxy) RoundTrips() int64 { return p.trips.Load() }

// Silence drops every connection and answers no new one until speak is called.
func (p *FaultProxy) Silence() (speak func()) {
	silence := make(chan struct{})
	p.mu.Lock()
	p.silent = silence
	p.mu.Unlock()
	p.drop()
	return sync.OnceFunc(func() {
		p.mu.Lock()
		p.silent = nil
		p.mu.Unlock()
		p.drop()
		close(silence)
	})
}

func (p *FaultProxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *FaultProxy) close() {
	p.mu.Lock()
	p.closed = true
	if p.silent != nil {
		close(p.silent)
		p.silent = nil
	}
	p.mu.Unlock()
	_ = p.listener.Close()
	p.drop()
	p.work.Wait()
}

// keep remembers c for drop; it is false when the proxy has ended.
func (p *FaultProxy) keep(c net.Conn) (silent <-chan struct{}, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
	return p.silent, !p.closed
}

func (p *FaultProxy) release(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *FaultProxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() { p.serve(c) })
	}
}

func (p *FaultProxy) serve(client net.Conn) {
	silent, ok := p.keep(client)
	defer p.release(client)
	if silent != nil {
		<-silent
		return
	}
	life := p.fuse.life()
	if !ok || p.fuse.meet(life, false) == refuse {
		return
	}
	server, err := net.Dial("tcp", p.target.Address())
	if err != nil {
		return
	}
	_, ok = p.keep(server)
	defer p.release(server)
	if !ok {
		return
	}
	s := &session{proxy: p, life: life, client: client, server: server}
	answered := make(chan struct{})
	p.work.Go(func() {
		defer close(answered)
		s.answers()
		_ = client.Close()
	})
	if s.questions() == lose {
		<-answered // the server has done it
	}
	_ = server.Close()
	<-answered
}

// session is one connection of a client.
type session struct {
	proxy          *FaultProxy
	life           int
	client, server net.Conn
	lost           atomic.Bool // the answer to come is for nobody
}

// questions passes on what the client sends, until it ends or is cut off.
func (s *session) questions() verdict {
	from, to := bufio.NewReader(s.client), bufio.NewWriter(s.server)
	if startup, err := body(from, nil); err != nil || write(to, startup, true) != nil {
		return refuse
	}
	for {
		message, err := frame(from)
		if err != nil {
			return refuse
		}
		asks := message[0] == 'Q' || message[0] == 'S' // Query and Sync end a round trip
		if asks {
			s.proxy.trips.Add(1)
		}
		v := s.proxy.fuse.meet(s.life, asks)
		if v == refuse {
			return refuse
		}
		s.lost.Store(v == lose)
		if write(to, message, from.Buffered() == 0 || v == lose) != nil {
			return refuse
		}
		if v == lose {
			return lose
		}
	}
}

// answers passes on what the server sends. A lost answer is read to its end,
// so that its question has been carried out by then.
func (s *session) answers() {
	from, to := bufio.NewReader(s.server), bufio.NewWriter(s.client)
	for {
		message, err := frame(from)
		if err != nil {
			return
		}
		switch {
		case s.lost.Load() && message[0] == 'Z': // ReadyForQuery
			return
		case s.lost.Load():
			continue
		case s.proxy.fuse.meet(s.life, false) == refuse, write(to, message, from.Buffered() == 0) != nil:
			return
		}
	}
}

func frame(from *bufio.Reader) ([]byte, error) {
	kind, err := from.ReadByte()
	if err != nil {
		return nil, err
	}
	return body(from, []byte{kind})
}

// body reads a length and what it announces, after head.
func body(from *bufio.Reader, head []byte) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n < 4 || n > 64<<20 {
		return nil, fmt.Errorf("reading a message of %d bytes", n)
	}
	message := append(append(head, length[:]...), make([]byte, n-4)...)
	_, err := io.ReadFull(from, message[len(message)-int(n)+4:])
	return message, err
}

func write(to *bufio.Writer, message []byte, flush bool) error {
	_, err := to.Write(message)
	if err == nil && flush {
		err = to.Flush()
	}
	return err
}
