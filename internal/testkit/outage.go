package testkit

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Stop ends the server in order, sessions included. It may be started again
// with Start, on the same port.
func (s *PostgresServer) Stop(t testing.TB) {
	t.Helper()
	if err := s.end(10 * time.Second); err != nil {
		t.Fatal(err)
	}
}

// Kill ends the server as a power cut would.
func (s *PostgresServer) Kill(t testing.TB) {
	t.Helper()
	if err := s.end(0); err != nil {
		t.Fatal(err)
	}
}

func (s *PostgresServer) end(grace time.Duration) error {
	s.mu.Lock()
	p := s.process
	s.process = nil
	s.mu.Unlock()
	if p == nil {
		return nil
	}
	return p.Stop(grace)
}

// Start starts a stopped server again, on its old port.
func (s *PostgresServer) Start(t testing.TB) {
	t.Helper()
	if err := s.startOnce(); err != nil {
		t.Fatal(err)
	}
}

// Restart stops and starts the server.
func (s *PostgresServer) Restart(t testing.TB) {
	t.Helper()
	s.Stop(t)
	s.Start(t)
}

// Freeze stops the server from answering, without closing anything; the
// function it returns lets it go on.
func (s *PostgresServer) Freeze(t testing.TB) func() {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	pid := s.process.Pid()
	signal := func(sig syscall.Signal, pids ...int) {
		for _, p := range pids {
			_ = syscall.Kill(p, sig) // a session may have ended by itself
		}
	}
	signal(syscall.SIGSTOP, pid)
	// Each session leads a group of its own.
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	var sessions []int
	for _, field := range strings.Fields(string(text)) {
		if child, err := strconv.Atoi(field); err == nil {
			sessions = append(sessions, child)
		}
	}
	signal(syscall.SIGSTOP, sessions...)
	thaw := sync.OnceFunc(func() {
		signal(syscall.SIGCONT, sessions...)
		signal(syscall.SIGCONT, pid)
	})
	t.Cleanup(thaw) // what is frozen cannot be ended
	return thaw
}
