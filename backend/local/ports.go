package local

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"time"
)

// Below the range that the kernel takes for outgoing connections, where a port
// would be lost to any of them while its server is down.
const (
	lowestPort  = 20000
	highestPort = 32767
)

const (
	host = "127.0.0.1"
	// portGrace is how long the last user of a server's port, most likely that
	// server's own dying process, may take to let go of it. Applications know
	// the port, so another one is only chosen when it must be.
	portGrace = 2 * time.Second
	portCheck = 50 * time.Millisecond
)

var errNoPort = errors.New("choosing a port: all that were tried are taken")

func free(port int) bool {
	l, err := net.Listen("tcp4", net.JoinHostPort(host, strconv.Itoa(port)))
	return err == nil && l.Close() == nil
}

// choosePort gives s a free port that no other server here has.
func (b *Backend) choosePort(s *server) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := map[int]bool{}
	for _, other := range b.servers {
		taken[other.record.Port] = true
	}
	for range 500 {
		port := lowestPort + rand.IntN(highestPort-lowestPort+1)
		if !taken[port] && free(port) {
			s.record.Port = port
			return nil
		}
	}
	return errNoPort
}

// takePort settles on the port of record, or on another when that is taken.
func (s *server) takePort(ctx context.Context) error {
	port := s.read().Port
	if port != 0 && !becomesFree(ctx, port) {
		s.b.options.Log("server %s: port %d is taken, choosing another", s.id, port)
		port = 0
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if port == 0 {
		if err := s.b.choosePort(s); err != nil {
			return err
		}
		port = s.read().Port
	}
	return s.save(func(r *record) { r.Port = port })
}

func becomesFree(ctx context.Context, port int) bool {
	ctx, cancel := context.WithTimeout(ctx, portGrace)
	defer cancel()
	for !free(port) {
		if !rest(ctx, portCheck) {
			return false
		}
	}
	return true
}
