package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/berth-dev/berth/process"
)

const logLimit = 16 << 20 // bytes; a longer log is set aside when its server starts

// launch starts the server's process on its own port, or on a new one when
// somebody else has taken that.
func (s *server) launch(ctx context.Context) (*running, error) {
	if err := s.takePort(ctx); err != nil {
		return nil, err
	}
	r := s.read()
	if err := s.writeConfig(r.Port); err != nil {
		return nil, err
	}
	if err := s.clearStalePID(); err != nil {
		return nil, err
	}
	log, begin, err := s.openLog()
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has its own
	p, err := process.Start(process.Spec{
		Path: s.b.program(r.Major, "postgres"), Args: []string{"-D", s.path(dataName)},
		Env: environment, Dir: s.dir, User: s.b.account.name, Log: log, Stop: syscall.SIGINT,
	})
	if err != nil {
		return nil, err
	}
	return &running{Process: p, log: s.path(logName), begin: begin}, nil
}

// settings are for a small server that many tenants share, where an
// acknowledged write stays. No statement is logged: it may hold a verifier.
func (s *server) settings(port int) map[string]string {
	settings := map[string]string{
		"listen_addresses": host, "port": strconv.Itoa(port), "unix_socket_directories": "",
		"max_connections": "200", "shared_buffers": "128MB", "huge_pages": "off",
		"password_encryption": "scram-sha-256", "fsync": "on", "wal_level": "logical",
		"log_destination": "stderr", "logging_collector": "off", "log_line_prefix": "%m [%p] ",
		"log_statement": "none", "log_min_error_statement": "panic",
		"timezone": "UTC", "log_timezone": "UTC", "lc_messages": "C",
		"default_text_search_config": "pg_catalog.english",
	}
	maps.Copy(settings, s.b.options.Settings)
	return settings
}

func (s *server) writeConfig(port int) error {
	var text strings.Builder
	text.WriteString("# Written by berth at each start. Use ALTER SYSTEM for changes.\n")
	settings := s.settings(port)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.NewReplacer("'", "''", `\`, `\\`).Replace(settings[name]))
	}
	path := s.path(dataName + "/postgresql.conf")
	if err := writeFile(path, []byte(text.String())); err != nil {
		return fmt.Errorf("writing settings of server %s: %w", s.id, err)
	}
	if err := s.b.account.give(path); err != nil {
		return fmt.Errorf("handing settings over: %w", err)
	}
	return nil
}

// clearStalePID removes a postmaster.pid whose process is not this server.
// PostgreSQL copes with a number that no process has, yet it refuses to start
// when a process of its account, such as another server, was given the number.
// Servers that live are never mistaken: a postmaster's folder is its data.
func (s *server) clearStalePID() error {
	path := s.path(dataName + "/postmaster.pid")
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading process id of server %s: %w", s.id, err)
	}
	pid, _, _ := strings.Cut(string(raw), "\n")
	if !s.isStranger(strings.TrimSpace(pid)) {
		return nil
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing stale process id of server %s: %w", s.id, err)
	}
	return nil
}

// isStranger reports whether pid is a process that works elsewhere. Of one
// that is gone or cannot be looked at, PostgreSQL knows what to make.
func (s *server) isStranger(pid string) bool {
	if _, err := strconv.Atoi(pid); err != nil {
		return false
	}
	folder, err := os.Readlink(filepath.Join("/proc", pid, "cwd"))
	if err != nil {
		return false
	}
	data, err := filepath.EvalSymlinks(s.path(dataName))
	return err == nil && folder != data
}

func (s *server) openLog() (*os.File, int64, error) {
	path := s.path(logName)
	if st, err := os.Stat(path); err == nil && st.Size() > logLimit {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, 0, fmt.Errorf("setting log aside: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("opening log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("looking at log: %w", err), f.Close())
	}
	return f, st.Size(), nil
}
