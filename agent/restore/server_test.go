package restore_test

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/agent/restore"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/process"
)

// withServer runs the restored server as whoever takes it over would, with its
// own settings on a port of loopback, and lets the superuser in.
func withServer(t *testing.T, j restore.Job, work func(connect func(database string) *pgx.Conn)) {
	t.Helper()
	major, data := dataOf(t, j)
	access := filepath.Join(testkit.OpenDir(t), "access")
	write(t, touch(t, access), []byte("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"))
	if j.Account != "" {
		giveTo(t, access, j.Account)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	var log bytes.Buffer
	p, err := process.Start(process.Spec{
		Path: testkit.Bin(t, "pg/"+major+"/bin/postgres"), Dir: "/", User: j.Account, Log: &log, Stop: syscall.SIGINT,
		Args: []string{"-D", data, "-c", "listen_addresses=127.0.0.1", "-c", "port=" + strconv.Itoa(port), "-c", "unix_socket_directories=",
			"-c", "hba_file=" + access, "-c", "fsync=off"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Stop(20 * time.Second) }()
	work(func(database string) *pgx.Conn {
		t.Helper()
		again := time.NewTicker(20 * time.Millisecond)
		defer again.Stop()
		for deadline := time.Now().Add(30 * time.Second); ; <-again.C {
			conn, err := pgx.Connect(t.Context(), "host=127.0.0.1 sslmode=disable user=postgres port="+strconv.Itoa(port)+" dbname="+database)
			if err == nil {
				return conn
			}
			if time.Now().After(deadline) {
				t.Fatalf("%v: %s", err, log.String())
			}
		}
	})
}

// dataOf finds the data directory as whoever takes over does: by its name.
func dataOf(t *testing.T, j restore.Job) (major, data string) {
	t.Helper()
	data, err := filepath.EvalSymlinks(filepath.Join(j.Target, "pgdata"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(read(t, filepath.Join(data, "PG_VERSION"))), data
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func touch(t *testing.T, file string) string {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func giveTo(t *testing.T, path, account string) {
	t.Helper()
	who, err := process.Credential(account)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, int(who.Uid), int(who.Gid)); err != nil {
		t.Fatal(err)
	}
}
