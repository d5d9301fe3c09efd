package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/process"
)

// Majors are the PostgreSQL versions that berth is tested against.
var Majors = []int{15, 17, 18}

const (
	superuser       = "postgres"
	superPassword   = "testkit-superuser"
	postgresTimeout = 30 * time.Second
)

// PostgresServer is a PostgreSQL server of one major on 127.0.0.1.
type PostgresServer struct {
	Major int

	dir  string // holds data
	bin  string
	port int

	mu      sync.Mutex
	process *process.Process
	log     *tail
}

// tail keeps the end of a server's log, for the failure message, or all of it.
type tail struct {
	mu   sync.Mutex
	text []byte
	all  bool
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if len(l.text) > 8192 && !l.all {
		l.text = bytes.Clone(l.text[len(l.text)-4096:])
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

var shared struct {
	sync.Mutex
	servers map[int]func() (*PostgresServer, error)
}

// Postgres is the server of this major that all tests of the process share. It
// is started when first asked for.
func Postgres(t testing.TB, major int) *PostgresServer {
	t.Helper()
	shared.Lock()
	if shared.servers == nil {
		shared.servers = map[int]func() (*PostgresServer, error){}
	}
	start, ok := shared.servers[major]
	if !ok {
		start = sync.OnceValues(func() (*PostgresServer, error) {
			s, err := newPostgres(major)
			if err == nil {
				atExit(s.remove)
			}
			return s, err
		})
		shared.servers[major] = start
	}
	shared.Unlock()
	s, err := start()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// NewPostgres is a server for this test alone, which may stop it or break it.
func NewPostgres(t testing.TB, major int) *PostgresServer {
	t.Helper()
	s, err := newPostgres(major)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.remove)
	return s
}

func newPostgres(major int) (*PostgresServer, error) {
	repository, err := findRoot()
	if err != nil {
		return nil, err
	}
	s := &PostgresServer{Major: major, bin: filepath.Join(repository, "bin", "pg", strconv.Itoa(major), "bin"), log: &tail{}}
	if _, err := os.Stat(filepath.Join(s.bin, "postgres")); err != nil {
		return nil, fmt.Errorf("PostgreSQL %d is not in bin/pg: run `make tools`", major)
	}
	if s.dir, err = os.MkdirTemp("", "berth-postgres-"); err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	if err := s.initialise(); err != nil {
		s.remove()
		return nil, err
	}
	if err := s.start(); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

// account is who runs the server: PostgreSQL refuses to run as root.
func account() string {
	if os.Getuid() == 0 {
		return "postgres"
	}
	return ""
}

func (s *PostgresServer) initialise() error {
	secret := filepath.Join(s.dir, "password")
	if err := errors.Join(os.Chmod(s.dir, 0o711), os.WriteFile(secret, []byte(superPassword), 0o600), os.Mkdir(s.data(), 0o700)); err != nil {
		return fmt.Errorf("preparing a data folder: %w", err)
	}
	if name := account(); name != "" {
		who, err := process.Credential(name)
		if err != nil {
			return fmt.Errorf("running PostgreSQL as root needs the account %s (run `make tools`): %w", name, err)
		}
		for _, path := range []string{s.data(), secret} {
			if err := os.Chown(path, int(who.Uid), int(who.Gid)); err != nil {
				return fmt.Errorf("preparing a data folder: %w", err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), postgresTimeout)
	defer cancel()
	err := process.Run(ctx, process.Spec{
		Path: filepath.Join(s.bin, "initdb"), Dir: "/", User: account(), Log: s.log,
		Args: []string{"-D", s.data(), "-U", superuser, "--auth=scram-sha-256", "--pwfile=" + secret, "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"},
	})
	if err != nil {
		return fmt.Errorf("running initdb of PostgreSQL %d: %w\n%s", s.Major, err, s.log)
	}
	return nil
}

func (s *PostgresServer) data() string { return filepath.Join(s.dir, "data") }

// start tries another port when somebody took the one the kernel had free.
func (s *PostgresServer) start() error {
	var err error
	for range 3 {
		if s.port == 0 {
			if s.port, err = freePort(); err != nil {
				return err
			}
		}
		if err = s.startOnce(); err == nil {
			return nil
		}
		s.port = 0
	}
	return err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("finding a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (s *PostgresServer) startOnce() error {
	settings := []string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(s.port), "unix_socket_directories=", "fsync=off", "full_page_writes=off",
		"synchronous_commit=off", "max_connections=300", "shared_buffers=32MB", "password_encryption=scram-sha-256", "wal_level=logical",
	}
	args := []string{"-D", s.data()}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	p, err := process.Start(process.Spec{
		Path: filepath.Join(s.bin, "postgres"), Args: args, Dir: "/", User: account(), Log: s.log, Stop: syscall.SIGINT,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), postgresTimeout)
	defer cancel()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := s.connect(ctx, "")
		if err == nil {
			s.mu.Lock()
			s.process = p
			s.mu.Unlock()
			return conn.Close(ctx)
		}
		select {
		case <-p.Done():
			return fmt.Errorf("starting PostgreSQL %d: %w\n%s", s.Major, errors.Join(p.Err(), errors.New("it ended")), s.log)
		case <-ctx.Done():
			_ = p.Stop(0)
			return fmt.Errorf("starting PostgreSQL %d: %w\n%s", s.Major, err, s.log)
		case <-retry.C:
		}
	}
}

// remove ends the server, and the files with it.
func (s *PostgresServer) remove() {
	_ = s.end(10 * time.Second) // at the end of a test nobody can be told
	_ = os.RemoveAll(s.dir)     // a temporary folder: what is left is the system's to clean
}
