package restore_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/agent/restore"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/process"
)

const repositoryPassword = "of the repository"

// origin is a kopia repository in a folder, made by the stock program.
type origin struct {
	dir  string
	snap string // the snapshot that the test is about
}

func (o origin) repository() string { return filepath.Join(o.dir, "repository") }

func newOrigin(t testing.TB, dir string) origin {
	t.Helper()
	o := origin{dir: dir}
	if err := errors.Join(os.MkdirAll(o.repository(), 0o700), os.WriteFile(o.passwordFile(), []byte(repositoryPassword+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	o.kopia(t, "repository", "create", "filesystem", "--path="+o.repository())
	return o
}

func (o origin) passwordFile() string { return filepath.Join(o.dir, "password") }

// kopia runs the stock program and gives what it wrote.
func (o origin) kopia(t testing.TB, args ...string) string {
	t.Helper()
	program := testkit.Bin(t, "kopia")
	if _, err := os.Stat(program); err != nil {
		t.Fatal("kopia is not in bin: run `make tools`")
	}
	var out bytes.Buffer
	err := process.Run(t.Context(), process.Spec{Path: program, Args: args, Dir: o.dir, Log: &out, Env: []string{
		"HOME=" + o.dir, "KOPIA_PASSWORD=" + repositoryPassword, "KOPIA_CONFIG_PATH=" + filepath.Join(o.dir, "kopia.config"), "KOPIA_CHECK_FOR_UPDATES=false",
		"KOPIA_PERSIST_CREDENTIALS_ON_CONNECT=false", "KOPIA_CACHE_DIRECTORY=" + filepath.Join(o.dir, "cache"), "KOPIA_LOG_DIR=" + filepath.Join(o.dir, "log"),
	}})
	if err != nil {
		t.Fatalf("kopia %s: %v: %s", args[0], err, out.String())
	}
	return out.String()
}

// snapshot takes one of a folder and gives its id.
func (o origin) snapshot(t testing.TB, folder string) string {
	t.Helper()
	out := o.kopia(t, "snapshot", "create", "--json", "--no-progress", folder)
	var m struct{ ID string }
	if err := json.Unmarshal([]byte(out[strings.Index(out, "{"):strings.LastIndex(out, "}")+1]), &m); err != nil || m.ID == "" {
		t.Fatalf("no snapshot: %v: %s", err, out)
	}
	return m.ID
}

// copyOf is the same repository for this test alone, which may break it.
func (o origin) copyOf(t testing.TB) origin {
	t.Helper()
	c := origin{dir: t.TempDir(), snap: o.snap}
	if err := errors.Join(os.CopyFS(c.repository(), os.DirFS(o.repository())), os.WriteFile(c.passwordFile(), []byte(repositoryPassword), 0o600)); err != nil {
		t.Fatal(err)
	}
	return c
}

// job restores the origin's snapshot into a new folder.
func (o origin) job(t testing.TB) restore.Job {
	t.Helper()
	j := restore.Job{
		Run: "run-" + t.Name(), Target: filepath.Join(testkit.OpenDir(t), "target"), Programs: testkit.Bin(t, "pg"),
		Repository: restore.Repository{Folder: o.repository(), PasswordFile: o.passwordFile()}, Snapshot: restore.Choice{ID: o.snap},
	}
	if os.Geteuid() == 0 {
		j.Account = "postgres"
	}
	return j
}

func run(t testing.TB, j restore.Job) restore.Result {
	t.Helper()
	r, err := restore.Run(t.Context(), j, func(restore.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// accounts is what pgbench fills, and never adds to.
const accounts = 100_000

var origins struct {
	sync.Mutex
	byMajor map[int]origin
}

func removeOrigins() error {
	var err error
	for _, o := range origins.byMajor {
		err = errors.Join(err, os.RemoveAll(o.dir))
	}
	return err
}

// frozen is the origin that all tests share: a server of that major was
// stopped in the middle of pgbench's writing, copied, and went on.
func frozen(t testing.TB, major int) origin {
	t.Helper()
	origins.Lock()
	defer origins.Unlock()
	if o, made := origins.byMajor[major]; made {
		return o
	}
	dir, err := os.MkdirTemp("", "berth-origin-")
	if err != nil {
		t.Fatal(err)
	}
	if origins.byMajor == nil {
		origins.byMajor = map[int]origin{}
	}
	o := newOrigin(t, dir)
	source := newSource(t, major)
	source.write(t, func() {
		data := source.data(t)
		resume := source.Freeze(t) // as a snapshot of a file system does
		defer resume()
		o.snap = o.snapshot(t, data)
	})
	origins.byMajor[major] = o
	return o
}

// source is a server whose files are backed up.
type source struct{ *testkit.PostgresServer }

func newSource(t testing.TB, major int) source {
	t.Helper()
	s := source{testkit.NewPostgres(t, major)}
	s.Exec(t, "", "CREATE DATABASE shop")
	s.pgbench(t, "-i", "-q", "-s", strconv.Itoa(accounts/100_000))
	s.Exec(t, "shop", "CREATE TABLE names (name text PRIMARY KEY, long text); INSERT INTO names SELECT 'name ' || n, (SELECT string_agg(md5(n || 'x' || i), '') FROM generate_series(1, 200) i) FROM generate_series(1, 300) n")
	return s
}

func (s source) data(t testing.TB) string {
	t.Helper()
	return s.Query(t, "", "SHOW data_directory")[0]
}

func (s source) spec(t testing.TB, log *bytes.Buffer, program string, args ...string) process.Spec {
	t.Helper()
	target := s.Target()
	return process.Spec{
		Path: testkit.Bin(t, "pg/15/bin/"+program), Args: args, Log: log, Dir: "/",
		Env: []string{"PGHOST=" + target.Host, fmt.Sprintf("PGPORT=%d", target.Port), "PGUSER=" + target.User, "PGPASSWORD=" + target.Password, "PGDATABASE=shop"},
	}
}

func (s source) pgbench(t testing.TB, args ...string) {
	t.Helper()
	var out bytes.Buffer
	if err := process.Run(t.Context(), s.spec(t, &out, "pgbench", args...)); err != nil {
		t.Fatalf("pgbench: %v: %s", err, out.String())
	}
}

// write has pgbench write while work runs.
func (s source) write(t testing.TB, work func()) {
	t.Helper()
	var out bytes.Buffer
	p, err := process.Start(s.spec(t, &out, "pgbench", "-n", "-c", "4", "-T", "600"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Stop(0) }()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for s.Query(t, "shop", "SELECT count(*) > 200 FROM pgbench_history")[0] != "t" {
		<-again.C
	}
	work()
	select {
	case <-p.Done():
		t.Fatalf("pgbench ended before the backup did: %s", out.String())
	default:
	}
}
