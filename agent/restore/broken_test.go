package restore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/manifest"
	"github.com/kopia/kopia/snapshot"

	"github.com/berth-dev/berth/agent/restore"
	"github.com/berth-dev/berth/internal/testkit"
)

// Whatever is wrong with the repository, nothing is called verified, and what
// is no fault of the backup is not called failed.
func TestABrokenRepository(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		breakIt func(*testing.T, origin, *restore.Job)
		verdict restore.Verdict
		reason  restore.Reason
		retry   bool
	}{
		"a pack with changed bytes": {func(t *testing.T, o origin, _ *restore.Job) {
			eachPack(t, o, func(file string, text []byte) {
				for i := len(text) / 4; i < len(text); i += 4096 {
					text[i] ^= 1
				}
				write(t, file, text)
			})
		}, restore.Failed, restore.RepositoryCorrupt, false},
		"a pack that is cut": {func(t *testing.T, o origin, _ *restore.Job) {
			eachPack(t, o, func(file string, text []byte) { write(t, file, text[:len(text)/3]) })
		}, restore.Failed, restore.RepositoryCorrupt, false},
		"packs that are gone": {func(t *testing.T, o origin, _ *restore.Job) {
			eachPack(t, o, func(file string, _ []byte) { remove(t, file) })
		}, restore.Failed, restore.RepositoryCorrupt, false},
		"a snapshot that is not there": {func(_ *testing.T, _ origin, j *restore.Job) {
			j.Snapshot.ID = strings.Repeat("0", 32)
		}, restore.Failed, restore.SnapshotMissing, false},
		"no snapshot that matches": {func(_ *testing.T, _ origin, j *restore.Job) {
			j.Snapshot = restore.Choice{Path: "/elsewhere/*"}
		}, restore.Failed, restore.SnapshotMissing, false},
		"a snapshot that was never finished": {func(t *testing.T, o origin, j *restore.Job) {
			j.Snapshot.ID = changeSnapshot(t, o, func(m *snapshot.Manifest) { m.IncompleteReason = "checkpoint" })
		}, restore.Failed, restore.SnapshotIncomplete, false},
		"a snapshot that lists less than it says": {func(t *testing.T, o origin, j *restore.Job) {
			j.Snapshot.ID = changeSnapshot(t, o, func(m *snapshot.Manifest) { m.RootEntry.DirSummary.TotalFileCount++ })
		}, restore.Failed, restore.SnapshotIncomplete, false},
		"another password": {func(t *testing.T, o origin, _ *restore.Job) {
			write(t, o.passwordFile(), []byte("another"))
		}, "", restore.RepositoryUnusable, false},
		"no repository": {func(t *testing.T, o origin, _ *restore.Job) {
			if err := errors.Join(os.RemoveAll(o.repository()), os.Mkdir(o.repository(), 0o700)); err != nil {
				t.Fatal(err)
			}
		}, "", restore.RepositoryUnusable, false},
		"a folder that is not mounted": {func(t *testing.T, o origin, _ *restore.Job) {
			if err := os.RemoveAll(o.repository()); err != nil {
				t.Fatal(err)
			}
		}, "", restore.RepositoryUnreachable, true},
		"a disk that is too small": {func(t *testing.T, _ origin, j *restore.Job) {
			j.Target = filepath.Join(smallDisk(t, "20m"), "target")
		}, "", restore.NoSpace, true},
		"a disk without room for recovery": {func(t *testing.T, _ origin, j *restore.Job) {
			j.Target = filepath.Join(smallDisk(t, "96m"), "target")
			j.Checks.SkipStructure = true
			j.Settings = map[string]string{"min_wal_size": "80MB"}
			j.Checks.Assertions = []restore.Assertion{{Name: "spills", SQL: "SELECT count(*) > 0 FROM (SELECT repeat(md5(n::text), 9) FROM generate_series(1, 400000) n ORDER BY 1) x"}}
		}, "", restore.NoSpace, true},
		"no server of that major": {func(t *testing.T, _ origin, j *restore.Job) {
			j.Programs = t.TempDir()
		}, "", restore.ServerMissing, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := frozen(t, 15).copyOf(t)
			j := o.job(t)
			tc.breakIt(t, o, &j)
			r := run(t, j)
			expect(t, r, tc.verdict, tc.reason, "")
			if r.Retry != tc.retry {
				t.Errorf("retry = %v: %s", r.Retry, r.Message)
			}
		})
	}
}

// changeSnapshot saves a snapshot that differs, and gives its id.
func changeSnapshot(t *testing.T, o origin, change func(*snapshot.Manifest)) string {
	t.Helper()
	o.kopia(t, "repository", "connect", "filesystem", "--path="+o.repository())
	r, err := repo.Open(t.Context(), filepath.Join(o.dir, "kopia.config"), repositoryPassword, &repo.Options{DisableRepositoryLog: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close(t.Context()) }()
	var id manifest.ID
	err = repo.WriteSession(t.Context(), r, repo.WriteSessionOptions{}, func(ctx context.Context, w repo.RepositoryWriter) error {
		m, err := snapshot.LoadSnapshot(ctx, w, manifest.ID(o.snap))
		if err != nil {
			return err
		}
		change(m)
		id, err = snapshot.SaveSnapshot(ctx, w, m)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(id)
}

// A source that could not read a file leaves a doubt, even when all runs.
func TestFilesThatTheSourceCouldNotReadAreADoubt(t *testing.T) {
	t.Parallel()
	o := frozen(t, 15).copyOf(t)
	j := o.job(t)
	j.Snapshot.ID = changeSnapshot(t, o, func(m *snapshot.Manifest) {
		m.RootEntry.DirSummary.IgnoredErrorCount = 2
		m.RootEntry.DirSummary.FailedEntries = []*fs.EntryWithError{{EntryPath: "base/1/1255", Error: "denied"}}
	})
	expect(t, run(t, j), restore.Degraded, "", "complete: the source could not read base/1/1255; 1 more")
}

// Each is damage that PostgreSQL may well start on.
func TestABrokenDataDirectory(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		breakIt func(*testing.T, string)
		change  func(*restore.Job)
		verdict restore.Verdict
		reason  restore.Reason
		message string
	}{
		"a table that is cut": {func(t *testing.T, data string) {
			file := relation(t, data, "pgbench_accounts")
			if err := os.Truncate(file, size(t, file)/16384*8192); err != nil {
				t.Fatal(err)
			}
		}, nil, restore.Failed, restore.CheckFailed, "rows: public.pgbench_accounts"},
		"a table that is gone": {func(t *testing.T, data string) {
			remove(t, relation(t, data, "names"))
		}, nil, restore.Failed, restore.CheckFailed, "rows"},
		"a table with changed rows": {func(t *testing.T, data string) {
			flip(t, relation(t, data, "pgbench_accounts"), 8192*40+8100)
		}, nil, restore.Failed, restore.CheckFailed, "structure"},
		"an index with changed entries": {func(t *testing.T, data string) {
			flip(t, relation(t, data, "pgbench_accounts_pkey"), 8192*20+8000)
		}, nil, restore.Failed, restore.CheckFailed, "pgbench_accounts"},
		"values stored aside that are gone": {func(t *testing.T, data string) {
			file := relation(t, data, "names toast")
			if err := os.Truncate(file, 0); err != nil {
				t.Fatal(err)
			}
		}, nil, restore.Failed, restore.CheckFailed, ""},
		"no log": {func(t *testing.T, data string) {
			removeLog(t, data)
		}, nil, restore.Failed, restore.RecoveryFailed, "checkpoint record"},
		"no log, where it may be reset": {func(t *testing.T, data string) {
			removeLog(t, data)
		}, func(j *restore.Job) { j.AllowReset = true }, restore.Degraded, "", "pg_resetwal was used"},
		"a control file that is cut": {func(t *testing.T, data string) {
			write(t, filepath.Join(data, "global", "pg_control"), []byte("half"))
		}, nil, restore.Failed, restore.NoDatabase, "pg_control"},
		"no control file": {func(t *testing.T, data string) {
			remove(t, filepath.Join(data, "global", "pg_control"))
		}, nil, restore.Failed, restore.NoDatabase, "holds none"},
		"a tablespace that was left behind": {func(t *testing.T, data string) {
			if err := os.Symlink("/mnt/fast/space", filepath.Join(data, "pg_tblspc", "99999")); err != nil {
				t.Fatal(err)
			}
		}, nil, restore.Failed, restore.SnapshotIncomplete, "pg_tblspc/99999"},
		"a log that leads out of the snapshot": {func(t *testing.T, data string) {
			if err := errors.Join(os.RemoveAll(filepath.Join(data, "pg_wal")), os.Symlink("/etc", filepath.Join(data, "base", "out")),
				os.Symlink("base/out", filepath.Join(data, "pg_wal"))); err != nil {
				t.Fatal(err)
			}
		}, nil, restore.Failed, restore.SnapshotIncomplete, "pg_wal"},
		"settings that lead out of the snapshot": {func(t *testing.T, data string) {
			remove(t, filepath.Join(data, "postgresql.conf"))
			victim := filepath.Join(t.TempDir(), "victim")
			if err := errors.Join(os.WriteFile(victim, []byte("untouched"), 0o600), os.Symlink(victim, filepath.Join(data, "postgresql.conf"))); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if text := read(t, victim); text != "untouched" {
					t.Errorf("a file outside became %q", text)
				}
			})
		}, func(j *restore.Job) { j.Checks.SkipStructure = true }, restore.Degraded, "", "structure: skipped"},
		"an assertion that does not hold": {func(*testing.T, string) {}, func(j *restore.Job) {
			j.Checks.Assertions = []restore.Assertion{{Name: "more accounts", SQL: "SELECT count(*) > 100000 FROM pgbench_accounts"}}
		}, restore.Failed, restore.CheckFailed, "assertion more accounts: it does not hold"},
		"an assertion that writes": {func(*testing.T, string) {}, func(j *restore.Job) {
			j.Checks.Assertions = []restore.Assertion{{Name: "writes", SQL: "DELETE FROM names RETURNING true"}}
		}, restore.Failed, restore.CheckFailed, "read-only"},
		"nothing wrong, structure not looked at": {func(*testing.T, string) {}, func(j *restore.Job) {
			j.Checks.SkipStructure = true
		}, restore.Degraded, "", "structure: skipped"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, data := stopped(t)
			tc.breakIt(t, data)
			o.snap = o.snapshot(t, data)
			j := o.job(t)
			if tc.change != nil {
				tc.change(&j)
			}
			r := run(t, j)
			expect(t, r, tc.verdict, tc.reason, tc.message)
			if again := run(t, j); again.Verdict != r.Verdict || again.Fixes.ResetWAL != r.Fixes.ResetWAL {
				t.Errorf("the second run found %q: %s", again.Verdict, again.Message)
			}
		})
	}
}

var restored = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "berth-stopped-") })

var stoppedOnce sync.Once

// stopped is the data directory of a server that was stopped, for this test to
// break, and an empty repository to put it in.
func stopped(t *testing.T) (origin, string) {
	t.Helper()
	dir, err := restored()
	if err != nil {
		t.Fatal(err)
	}
	from := frozen(t, 15)
	stoppedOnce.Do(func() {
		origins.Lock()
		origins.byMajor[-1] = origin{dir: dir} // is removed with the others
		origins.Unlock()
		j := from.job(t)
		j.Target, j.KeepPasswords = filepath.Join(dir, "target"), true
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
		expect(t, run(t, j), restore.Verified, "", "")
	})
	own := t.TempDir()
	data := filepath.Join(own, "source")
	if err := os.CopyFS(data, os.DirFS(filepath.Join(dir, "target", "data"))); err != nil {
		t.Fatal(err)
	}
	return newOrigin(t, filepath.Join(own, "origin")), data
}

// relation is the file of a table or index of the shop.
func relation(t *testing.T, data, name string) string {
	t.Helper()
	path, found := paths(t)[name]
	if !found {
		t.Fatalf("no relation %s", name)
	}
	return filepath.Join(data, path)
}

// paths are the files of relations, asked of the origin once, from a server on
// a copy of it.
var paths = func() func(*testing.T) map[string]string {
	var once sync.Once
	var all map[string]string
	return func(t *testing.T) map[string]string {
		once.Do(func() { all = askPaths(t) })
		return all
	}
}()

func askPaths(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	j := frozen(t, 15).job(t)
	expect(t, run(t, j), restore.Verified, "", "")
	withServer(t, j, func(connect func(string) *pgx.Conn) {
		rows, err := connect("shop").Query(t.Context(), `SELECT relname, pg_relation_filepath(oid) FROM pg_class WHERE relname IN ('pgbench_accounts', 'pgbench_accounts_pkey', 'names')
			UNION SELECT 'names toast', pg_relation_filepath(reltoastrelid) FROM pg_class WHERE relname = 'names'`)
		if err != nil {
			t.Fatal(err)
		}
		var name, path string
		if _, err := pgx.ForEachRow(rows, []any{&name, &path}, func() error { all[name] = path; return nil }); err != nil {
			t.Fatal(err)
		}
	})
	return all
}

func eachPack(t *testing.T, o origin, work func(file string, text []byte)) {
	t.Helper()
	packs := 0
	err := filepath.WalkDir(o.repository(), func(file string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasPrefix(strings.TrimPrefix(file, o.repository()+"/"), "p") {
			return err
		}
		text, err := os.ReadFile(file)
		packs++
		work(file, text)
		return err
	})
	if err != nil || packs == 0 {
		t.Fatalf("%d packs, %v", packs, err)
	}
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, text, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, file string, at int) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 16 {
		text[at+i] ^= 0xff
	}
	write(t, file, text)
}

func size(t *testing.T, file string) int64 {
	t.Helper()
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

func removeLog(t *testing.T, data string) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(data, "pg_wal", "0*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("%d segments, %v", len(segments), err)
	}
	for _, segment := range segments {
		remove(t, segment)
	}
}

// smallDisk is a disk of its own with room for so much.
func smallDisk(t *testing.T, room string) string {
	t.Helper()
	dir := testkit.OpenDir(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755,size="+room); err != nil {
		t.Fatalf("mounting a small disk needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
