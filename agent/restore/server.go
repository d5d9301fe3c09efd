package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-dev/berth/process"
)

// recoveryLimit bounds how long PostgreSQL may replay its log.
const recoveryLimit = 12 * time.Hour

// server is the restored PostgreSQL while the worker looks at it. It listens
// on a socket in a folder of its account alone, where no password is asked.
type server struct {
	data, bin, account string
	major              int
	aliases            *aliases
	socket             string // folder
	superuser          string

	process *process.Process
	log     *logTail
}

// newServer finds the programs of that major, and makes the folder that the
// server is reached through.
func newServer(f found, j Job, journal *journal) (*server, error) {
	s := &server{data: f.dir, bin: filepath.Join(j.Programs, strconv.Itoa(f.major), "bin"), account: j.Account, major: f.major}
	if _, err := os.Stat(s.program("postgres")); err != nil {
		return nil, fault(ServerMissing, "finding PostgreSQL %d: there is none in %s", f.major, j.Programs)
	}
	folder, err := journal.scratch()
	if err != nil {
		return nil, err
	}
	s.socket = filepath.Join(folder, "socket")
	s.aliases = &aliases{dir: filepath.Join(folder, "locale")}
	err = errors.Join(os.Chmod(folder, 0o711), os.Mkdir(s.socket, 0o700), os.Mkdir(s.aliases.dir, 0o755),
		os.WriteFile(s.access(), []byte("local all all trust\n"), 0o644))
	if err == nil && s.account != "" {
		var who *syscall.Credential
		if who, err = process.Credential(s.account); err == nil {
			err = os.Chown(s.socket, int(who.Uid), int(who.Gid))
		}
	}
	if err != nil {
		return nil, errors.Join(onDisk("making a folder", err), os.RemoveAll(folder))
	}
	return s, nil
}

func (s *server) program(name string) string { return filepath.Join(s.bin, name) }

func (s *server) access() string { return filepath.Join(filepath.Dir(s.socket), "pg_hba.conf") }

// remove ends the server and drops the folder that it was reached through.
func (s *server) remove() {
	_ = s.stop() // it is killed when it does not end, so nothing is left
	_ = os.RemoveAll(filepath.Dir(s.socket))
}

// start has PostgreSQL recover, and returns once it answers. Meanwhile nothing
// it holds may act: no worker of a subscription, no library, no archive.
// It does not sync: whatever the machine loses, the next run makes again.
func (s *server) start(ctx context.Context) error {
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(orphanLimit); ; {
		err := s.startOnce(ctx)
		if err == nil || !strings.Contains(err.Error(), stillInUse) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return &Fault{Interrupted, ctx.Err()}
		case <-again.C:
		}
	}
}

// A worker that was killed took its server with it; that server's sessions
// may take a moment longer, and PostgreSQL waits for no one.
const (
	orphanLimit = time.Minute
	stillInUse  = "pre-existing shared memory block"
)

func (s *server) startOnce(ctx context.Context) error {
	s.log = &logTail{}
	args := []string{"-D", s.data}
	for _, setting := range []string{
		"listen_addresses=", "port=5432", "unix_socket_directories=" + s.socket, "unix_socket_permissions=0700", "hba_file=" + s.access(),
		"fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off", "max_logical_replication_workers=0", "archive_mode=off",
		"shared_preload_libraries=", "session_preload_libraries=", "local_preload_libraries=", "default_transaction_read_only=off",
		"ssl=off", "log_min_messages=warning", "maintenance_work_mem=128MB", "max_wal_size=8GB",
	} {
		args = append(args, "-c", setting)
	}
	p, err := process.Start(process.Spec{
		Path: s.program("postgres"), Args: args, Dir: "/", User: s.account, Env: s.aliases.environment(), Log: s.log, Stop: syscall.SIGINT,
	})
	if err != nil {
		return &Fault{Unsuitable, err}
	}
	s.process = p
	ctx, cancel := context.WithTimeout(ctx, recoveryLimit)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if err := s.answers(ctx); err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return s.ended("starting", p.Err())
		case <-ctx.Done():
			return errors.Join(&Fault{Interrupted, context.Cause(ctx)}, s.stop())
		case <-again.C:
		}
	}
}

const cannotConnectNow = "57P03"

// answers reports whether recovery is over: every refusal but "not yet" comes
// from a server that is up.
func (s *server) answers(ctx context.Context) error {
	conn, err := s.connect(ctx, "postgres", "template1")
	if err == nil {
		return conn.Close(ctx)
	}
	var said *pgconn.PgError
	if errors.As(err, &said) && said.Code != cannotConnectNow {
		return nil
	}
	return err
}

func (s *server) connect(ctx context.Context, user, database string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig("sslmode=disable connect_timeout=60 application_name=berth-restore")
	if err != nil {
		return nil, err
	}
	config.Host, config.Port, config.User, config.Database, config.Fallbacks = s.socket, 5432, user, database, nil
	return pgx.ConnectConfig(ctx, config)
}

// in runs work on a connection to database, as the superuser.
func (s *server) in(ctx context.Context, database string, work func(*pgx.Conn) error) error {
	conn, err := s.connectAgain(ctx, database)
	if err != nil {
		return fmt.Errorf("connecting to database %s: %w", database, told(err))
	}
	return errors.Join(work(conn), conn.Close(context.WithoutCancel(ctx)))
}

// restartLimit bounds how long the server may take to be back after damaged
// data ended one of its processes.
const restartLimit = 2 * time.Minute

func (s *server) connectAgain(ctx context.Context, database string) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, restartLimit)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		conn, err := s.connect(ctx, s.superuser, database)
		var said *pgconn.PgError
		if err == nil || errors.As(err, &said) && said.Code != cannotConnectNow {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-s.process.Done():
			return nil, err
		case <-again.C:
		}
	}
}

// stop ends the server in order. It may be repeated.
func (s *server) stop() error {
	if s.process == nil {
		return nil
	}
	p := s.process
	s.process = nil
	if err := p.Stop(10 * time.Minute); err != nil {
		return fmt.Errorf("stopping PostgreSQL: %w", err)
	}
	return nil
}

// stopCleanly ends the server and makes sure that it wrote its last checkpoint.
func (s *server) stopCleanly() error {
	p := s.process
	if err := s.stop(); err != nil {
		return err
	}
	if err := p.Err(); err != nil {
		return s.ended("stopping", err)
	}
	return nil
}
