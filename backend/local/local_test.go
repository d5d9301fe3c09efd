package local_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/backend/backendtest"
	"github.com/berth-dev/berth/backend/local"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/process"
)

// ownerDir makes the test binary a program that runs a server in that folder
// until it is killed.
const ownerDir = "BERTH_TEST_OWNER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(ownerDir); dir != "" {
		own(dir)
	}
	goleak.VerifyTestMain(m,
		// The thread that starts children lives as long as the program.
		goleak.IgnoreAnyFunction("github.com/berth-dev/berth/process.init.func1.1"))
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, major := range []string{"15", "17", "18"} {
		t.Run("PostgreSQL "+major, func(t *testing.T) {
			t.Parallel()
			backendtest.Run(t, func(t *testing.T) backendtest.Fixture {
				return backendtest.Fixture{
					Backend: open(t, folder(t)), One: server("one", major), Two: server("two", major),
					Missing: server("missing", major), Makes: true,
				}
			})
		})
	}
}

func TestACrashedServerComesBackWithItsData(t *testing.T) {
	t.Parallel()
	b := open(t, folder(t))
	one := server("one", "17")
	admin := up(t, b, one)
	exec(t, admin, `CREATE TABLE public.kept AS SELECT 7 AS n`)
	for range 2 {
		before := up(t, b, one)
		kill(t, before, syscall.SIGKILL)
		after := up(t, b, one)
		if diff := cmp.Diff(before.Address(), after.Address()); diff != "" {
			t.Fatalf("the address changed: %s", diff)
		}
		if n := query(t, after, `SELECT n FROM public.kept`); n != "7" {
			t.Fatalf("kept is %s", n)
		}
	}
}

func TestACrashIsToldWithItsCause(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	b := open(t, dir)
	one := server("one", "17")
	admin := up(t, b, one)
	seen := make(chan backend.Observed, 100)
	b.OnChange(func(string) { seen <- observe(t, b, one) })
	exec(t, admin, `ALTER SYSTEM SET shared_preload_libraries = 'no_such_library'`)
	kill(t, admin, syscall.SIGQUIT)
	deadline := time.After(time.Minute)
	for {
		select {
		case found := <-seen:
			if strings.Contains(found.Message, "no_such_library") {
				want := backend.Observed{Exists: true, Reason: local.Crashed, Message: found.Message}
				if diff := cmp.Diff(want, found); diff != "" {
					t.Fatal(diff)
				}
				return
			}
		case <-deadline:
			t.Fatalf("the cause was never told; last %+v", observe(t, b, one))
		}
	}
}

func TestDataIsFoundAgainAfterARestart(t *testing.T) {
	t.Parallel()
	for name, wake := range map[string]func(*testing.T, *local.Backend, backend.Server){
		"by Resume":  func(_ *testing.T, b *local.Backend, _ backend.Server) { b.Resume() },
		"by Observe": func(t *testing.T, b *local.Backend, s backend.Server) { observe(t, b, s) },
		"by Apply": func(t *testing.T, b *local.Backend, s backend.Server) {
			if err := b.Apply(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, one := folder(t), server("one", "17")
			b := open(t, dir)
			before := up(t, b, one)
			exec(t, before, `CREATE TABLE public.kept AS SELECT 7 AS n`)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if err := login(t, before); err == nil {
				t.Fatal("the server outlived Close")
			}
			again := open(t, dir)
			if names, _ := again.List(t.Context()); !cmp.Equal(names, []string{"one"}) {
				t.Fatalf("List names %v", names)
			}
			wake(t, again, one)
			var after postgres.Target
			until(t, "usable", func() bool {
				found := observe(t, again, one)
				after = found.Admin
				return found.Usable
			})
			if before.Address() != after.Address() {
				t.Fatalf("it moved from %s to %s", before, after)
			}
			if n := query(t, after, `SELECT n FROM public.kept`); n != "7" {
				t.Fatalf("kept is %s", n)
			}
		})
	}
}

func own(dir string) {
	b, err := local.New(local.Options{Dir: dir, Bin: "../../bin/pg"})
	if err == nil {
		err = b.Apply(context.Background(), server("one", "17"))
	}
	fmt.Println("own:", err)
	select {}
}

func TestAServerSurvivesThatItsProgramIsKilled(t *testing.T) {
	t.Parallel()
	for name, moment := range map[string]func(dir string) bool{
		"while initdb runs": func(dir string) bool {
			_, err := os.Stat(filepath.Join(dir, "one", "data", "global"))
			return err == nil
		},
		"while the server starts": func(dir string) bool {
			_, err := os.Stat(filepath.Join(dir, "one", "data", "postmaster.pid"))
			return err == nil && made(dir)
		},
		"while the server runs": func(dir string) bool {
			raw, err := os.ReadFile(filepath.Join(dir, "one", "data", "postmaster.pid"))
			return err == nil && made(dir) && strings.Contains(string(raw), "ready")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, one := folder(t), server("one", "17")
			programs(t)
			for range 3 {
				owner, err := process.Start(process.Spec{Path: os.Args[0], Env: append(os.Environ(), ownerDir+"="+dir)})
				if err != nil {
					t.Fatal(err)
				}
				until(t, name, func() bool { return moment(dir) })
				if err := owner.Stop(0); err != nil {
					t.Fatal(err)
				}
			}
			b := open(t, dir)
			exec(t, up(t, b, one), `CREATE TABLE public.kept AS SELECT 7 AS n`)
			if n := query(t, up(t, b, one), `SELECT n FROM public.kept`); n != "7" {
				t.Fatalf("kept is %s", n)
			}
		})
	}
}

func made(dir string) bool {
	raw, err := os.ReadFile(filepath.Join(dir, "one", "server.json"))
	return err == nil && strings.Contains(string(raw), `"made": true`)
}

func TestAHalfMadeServerIsMadeAnew(t *testing.T) {
	t.Parallel()
	dir, one := folder(t), server("one", "17")
	b := open(t, dir)
	if err := b.Apply(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	until(t, "half made", func() bool {
		_, err := os.Stat(filepath.Join(dir, "one", "data", "base"))
		return err == nil
	})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "one", "data")); err != nil {
		t.Fatalf("nothing half made to test with: %v", err)
	}
	again := open(t, dir)
	if found := observe(t, again, one); found.Usable {
		t.Fatal("a half made server is usable")
	}
	if n := query(t, up(t, again, one), `SELECT 1`); n != "1" {
		t.Fatalf("SELECT 1 is %s", n)
	}
	if _, err := os.Stat(filepath.Join(dir, "one", "pwfile")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the password for initdb is still there: %v", err)
	}
}

func TestAHalfMadeServerCanBeDeleted(t *testing.T) {
	t.Parallel()
	dir, one := folder(t), server("one", "17")
	b := open(t, dir)
	if err := b.Apply(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	until(t, "gone", func() bool { return !observe(t, b, one).Exists })
	if diff := cmp.Diff([]string{"lock"}, files(t, dir)); diff != "" {
		t.Fatalf("left over: %s", diff)
	}
}

func TestADeletionThatWasCutShortIsFinished(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	b := open(t, dir)
	up(t, b, server("one", "17"))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "one", "server.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(raw), "{", `{"deleting": true,`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, ".removed-two", "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	b = open(t, dir)
	until(t, "gone", func() bool { return !observe(t, b, server("one", "17")).Exists })
	if diff := cmp.Diff([]string{"lock"}, files(t, dir)); diff != "" {
		t.Fatalf("left over: %s", diff)
	}
}

func TestATakenPortIsReplaced(t *testing.T) {
	t.Parallel()
	dir, one := folder(t), server("one", "17")
	b := open(t, dir)
	before := up(t, b, one)
	exec(t, before, `CREATE TABLE public.kept AS SELECT 7 AS n`)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	squatter, err := net.Listen("tcp4", before.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = squatter.Close() })
	b = open(t, dir)
	after := up(t, b, one)
	if before.Port == after.Port {
		t.Fatalf("it is said to listen at the taken port %d", after.Port)
	}
	if n := query(t, after, `SELECT n FROM public.kept`); n != "7" {
		t.Fatalf("kept is %s", n)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if kept := up(t, open(t, dir), one); kept.Port != after.Port {
		t.Fatalf("the new port %d was not kept: now %d", after.Port, kept.Port)
	}
}

// A machine that was switched off gives old process ids to others at its next start.
func TestAStaleProcessIDDoesNotStopTheStart(t *testing.T) {
	t.Parallel()
	dir, one, two := folder(t), server("one", "17"), server("two", "17")
	b := open(t, dir)
	up(t, b, two)
	up(t, b, one)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, dir)
	up(t, b, two)
	for name, pid := range map[string]func() string{
		"nobody":         func() string { return "4194303" },
		"another server": func() string { return postmaster(t, up(t, b, two)) },
	} {
		lines := strings.Join([]string{pid(), filepath.Join(dir, "one", "data"), "1700000000", "20000", "", "127.0.0.1", "", "ready", ""}, "\n")
		path := filepath.Join(dir, "one", "data", "postmaster.pid")
		if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			give(t, path)
		}
		admin := up(t, b, one)
		if n := query(t, admin, `SELECT 1`); n != "1" {
			t.Fatalf("with the id of %s: SELECT 1 is %s", name, n)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = open(t, dir)
		up(t, b, two)
	}
}

func TestHostileIDsAreRefusedAndTouchNothing(t *testing.T) {
	t.Parallel()
	parent := folder(t)
	dir := filepath.Join(parent, "servers")
	b := open(t, dir)
	precious := filepath.Join(parent, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{
		"", ".", "..", "../precious", "a/b", "/etc", "a/../../precious", `a\b`, "a\x00b", "a\nb", "-a", "a-", ".a", "A", "ä", "a b", "lock ",
		"$(id)", strings.Repeat("a", 51), "a_b",
	} {
		if err := b.Apply(t.Context(), server(id, "17")); !errors.Is(err, local.ErrID) {
			t.Errorf("Apply of %q: %v", id, err)
		}
		if err := b.Delete(t.Context(), id); !errors.Is(err, local.ErrID) {
			t.Errorf("Delete of %q: %v", id, err)
		}
		if _, err := b.Observe(t.Context(), server(id, "17")); !errors.Is(err, local.ErrID) {
			t.Errorf("Observe of %q: %v", id, err)
		}
	}
	if diff := cmp.Diff([]string{"precious", "servers"}, files(t, parent)); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff([]string{"lock"}, files(t, dir)); diff != "" {
		t.Fatal(diff)
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	b := open(t, dir)
	up(t, b, server("one", "15"))
	class := func(version string) *v1alpha1.DatabaseClass {
		c := &v1alpha1.DatabaseClass{}
		c.Spec.DBVersion = version
		return c
	}
	for name, tc := range map[string]struct {
		want   backend.Server
		reason string
	}{
		"a major that is not there is refused":                {server("new", "16"), local.VersionUnavailable},
		"a minor newer than what is there is refused":         {server("new", "17.99"), local.VersionUnavailable},
		"a version that is none is refused":                   {server("new", "x"), local.VersionUnavailable},
		"the class's version counts":                          {backend.Server{ID: "new", Class: class("16")}, local.VersionUnavailable},
		"the claim's version is before the class's":           {backend.Server{ID: "new", Class: class("16"), Wishes: backend.Wishes{Version: "15"}}, local.Absent},
		"data of another major is never touched":              {server("one", "18"), local.VersionMismatch},
		"data of another major than the class's, neither":     {backend.Server{ID: "one", Class: class("17")}, local.VersionMismatch},
		"an older minor than what is there is fine":           {server("one", "15.1"), ""},
		"no wish takes a server as it is":                     {backend.Server{ID: "one"}, ""},
		"no wish is no reason to refuse what is not yet made": {backend.Server{ID: "new"}, local.Absent},
	} {
		found := observe(t, b, tc.want)
		if found.Reason != tc.reason {
			t.Errorf("%s: reason %q, want %q (%s)", name, found.Reason, tc.reason, found.Message)
		}
		if permanent := tc.reason != "" && tc.reason != local.Absent; found.Permanent != permanent {
			t.Errorf("%s: permanent is %v", name, found.Permanent)
		}
		if found.Permanent {
			if err := b.Apply(t.Context(), tc.want); err != nil {
				t.Errorf("%s: Apply: %v", name, err)
			}
		}
	}
	if message := observe(t, b, server("new", "16")).Message; !strings.Contains(message, "15.") || !strings.Contains(message, "18.") {
		t.Errorf("the message does not name the versions there are: %s", message)
	}
	if v := query(t, up(t, b, server("one", "15")), `SHOW server_version_num`); !strings.HasPrefix(v, "15") {
		t.Errorf("the server became %s", v)
	}
	if names, _ := b.List(t.Context()); !cmp.Equal(names, []string{"one"}) {
		t.Errorf("a refused wish left %v", names)
	}
}

func TestTheDefaultMajorIsForServersWithoutAWish(t *testing.T) {
	t.Parallel()
	b := open(t, folder(t), func(o *local.Options) { o.DefaultMajor = 18 })
	if v := query(t, up(t, b, backend.Server{ID: "one"}), `SHOW server_version_num`); !strings.HasPrefix(v, "18") {
		t.Fatalf("it is %s", v)
	}
}

func TestAServerIsDurableAndClosed(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	b := open(t, dir, func(o *local.Options) { delete(o.Settings, "fsync") })
	one := server("one", "17")
	one.Wishes.Tags = []v1alpha1.Tag{{Key: "team", Value: "it's"}}
	admin := up(t, b, one)
	for setting, want := range map[string]string{
		"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "data_checksums": "on", "listen_addresses": "127.0.0.1",
		"unix_socket_directories": "", "password_encryption": "scram-sha-256", "wal_level": "logical", "max_connections": "200",
		"server_encoding": "UTF8", "log_min_error_statement": "panic", "log_statement": "none", "timezone": "UTC",
	} {
		if got := query(t, admin, `SHOW `+setting); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
	wrong := admin
	wrong.Password = "wrong"
	if err := login(t, wrong); postgres.Explain(err).Reason != postgres.LoginRefused {
		t.Errorf("a wrong password: %v", err)
	}
	if admin.Port >= 32768 {
		t.Errorf("port %d is for outgoing connections", admin.Port)
	}
	for _, name := range []string{"admin", "server.json", "log", "data"} {
		st, err := os.Stat(filepath.Join(dir, "one", name))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %s", name, st.Mode())
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "one", "server.json"))
	if err != nil || !strings.Contains(string(raw), "it's") {
		t.Errorf("the tags are not kept: %s, %v", raw, err)
	}
}

func TestAFailingStatementLeavesNoSecretInTheLog(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	b := open(t, dir)
	admin := up(t, b, server("one", "17"))
	conn := connect(t, admin)
	if _, err := conn.Exec(t.Context(), `ALTER ROLE nobody PASSWORD 'hunter2hunter2'`); err == nil {
		t.Fatal("a role that is not there was altered")
	}
	raw, err := os.ReadFile(filepath.Join(dir, "one", "log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), "does not exist") {
		t.Fatal("the failure is not in the log, so this shows nothing")
	}
	if strings.Contains(string(raw), "hunter2") || strings.Contains(string(raw), admin.Password) {
		t.Fatal("the log shows a password")
	}
}

func TestASecondProgramIsKeptOut(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	b := open(t, dir)
	if _, err := local.New(local.Options{Dir: dir, Bin: programs(t)}); err == nil {
		t.Fatal("two backends use one folder")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAClosedBackendStartsNothing(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	b := open(t, dir)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Apply(t.Context(), server("one", "17")); err == nil {
		t.Fatal("Apply after Close did not fail")
	}
	b.Resume()
	if diff := cmp.Diff([]string{"lock"}, files(t, dir)); diff != "" {
		t.Fatal(diff)
	}
}

func TestVanishedDataIsNotMadeAnew(t *testing.T) {
	t.Parallel()
	dir, one := folder(t), server("one", "17")
	b := open(t, dir)
	exec(t, up(t, b, one), `CREATE TABLE public.kept AS SELECT 7 AS n`)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	data, aside := filepath.Join(dir, "one", "data"), filepath.Join(dir, "one", "aside")
	if err := os.Rename(data, aside); err != nil {
		t.Fatal(err)
	}
	b = open(t, dir)
	until(t, "found to lack its data", func() bool { return observe(t, b, one).Reason == local.DataMissing })
	if err := os.Rename(aside, data); err != nil {
		t.Fatal(err)
	}
	until(t, "usable", func() bool { return observe(t, b, one).Usable })
	if n := query(t, up(t, b, one), `SELECT n FROM public.kept`); n != "7" {
		t.Fatalf("kept is %s", n)
	}
}

func TestAnUnreadableRecordIsToldAndItsServerLeftAlone(t *testing.T) {
	t.Parallel()
	dir, one := folder(t), server("one", "17")
	b := open(t, dir)
	exec(t, up(t, b, one), `CREATE TABLE public.kept AS SELECT 7 AS n`)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "one", "server.json")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	b = open(t, dir)
	if err := b.Apply(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if found := observe(t, b, one); found.Reason != local.RecordMalformed || !found.Permanent || !found.Exists {
		t.Fatalf("found %+v", found)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := query(t, up(t, open(t, dir), one), `SELECT n FROM public.kept`); n != "7" {
		t.Fatalf("kept is %s", n)
	}
}

// As root, servers run as another account, which has to reach their folders.
func TestAClosedFolderIsNamed(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("this program runs its servers as itself, so no folder is closed to them")
		return
	}
	parent := folder(t)
	if err := os.Chmod(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	b := open(t, filepath.Join(parent, "servers"))
	one := server("one", "17")
	if err := b.Apply(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	found := observe(t, b, one)
	if found.Reason != local.FolderNotTraversable || !found.Permanent || !strings.HasSuffix(found.Message, "chmod o+x "+parent) {
		t.Fatalf("found %+v", found)
	}
	if err := os.Chmod(parent, 0o711); err != nil {
		t.Fatal(err)
	}
	up(t, b, one)
}

// A machine may lack the locale C.UTF-8; the same initdb then takes C.
func TestAMachineWithoutUTF8LocaleGetsC(t *testing.T) {
	t.Parallel()
	real, err := filepath.EvalSymlinks(filepath.Join(programs(t), "17"))
	if err != nil {
		t.Fatal(err)
	}
	bin := folder(t)
	if err := os.MkdirAll(filepath.Join(bin, "17", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(real, "bin", "postgres"), filepath.Join(bin, "17", "bin", "postgres")); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *C.UTF-8*) echo 'initdb: error: invalid locale name \"C.UTF-8\"' >&2; exit 1;; esac\nexec %s/bin/initdb \"$@\"\n", real)
	if err := os.WriteFile(filepath.Join(bin, "17", "bin", "initdb"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	b := open(t, folder(t), func(o *local.Options) { o.Bin = bin })
	admin := up(t, b, server("one", "17"))
	if got := query(t, admin, `SELECT datcollate || ' ' || pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'postgres'`); got != "C UTF8" {
		t.Fatalf("locale and encoding are %s", got)
	}
}

func TestAFailingInitdbIsToldAndTriedAgain(t *testing.T) {
	t.Parallel()
	bin := folder(t)
	if err := os.MkdirAll(filepath.Join(bin, "17", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"postgres": "#!/bin/sh\necho 'postgres (PostgreSQL) 17.1'\n",
		"initdb":   "#!/bin/sh\necho 'initdb: error: could not write: No space left on device' >&2\nexit 1\n",
	} {
		if err := os.WriteFile(filepath.Join(bin, "17", "bin", name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir, one := folder(t), server("one", "17")
	b := open(t, dir, func(o *local.Options) { o.Bin = bin })
	if err := b.Apply(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	until(t, "told", func() bool { return strings.Contains(observe(t, b, one).Message, "No space left on device") })
	if found := observe(t, b, one); found.Reason != local.NotMade || found.Permanent {
		t.Fatalf("found %+v", found)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	up(t, open(t, dir), one)
}

func TestNewWithoutPostgreSQLSaysWhereItLooked(t *testing.T) {
	t.Parallel()
	bin := folder(t)
	if _, err := local.New(local.Options{Dir: folder(t), Bin: bin}); err == nil || !strings.Contains(err.Error(), bin) {
		t.Fatalf("err = %v", err)
	}
}

func server(id, version string) backend.Server {
	return backend.Server{ID: id, Wishes: backend.Wishes{Version: version}}
}

// folder is a fresh one that the account of the servers can reach.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "berth-local-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func programs(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../bin/pg")
	if err != nil {
		t.Fatal(err)
	}
	for _, major := range []string{"15", "17", "18"} {
		if _, err := os.Stat(filepath.Join(dir, major, "bin", "postgres")); err != nil {
			t.Fatalf("PostgreSQL %s is missing; run: make tools", major)
		}
	}
	return dir
}

func open(t *testing.T, dir string, change ...func(*local.Options)) *local.Backend {
	t.Helper()
	o := local.Options{Dir: dir, Bin: programs(t), Log: t.Logf, Settings: map[string]string{
		"fsync": "off", "shared_buffers": "8MB", "max_wal_senders": "2",
	}}
	for _, f := range change {
		f(&o)
	}
	b, err := local.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func observe(t *testing.T, b *local.Backend, want backend.Server) backend.Observed {
	t.Helper()
	found, err := b.Observe(context.WithoutCancel(t.Context()), want)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// up applies the server and waits until its administrator can log in: what
// Observe says may be a moment behind a crash.
func up(t *testing.T, b *local.Backend, want backend.Server) postgres.Target {
	t.Helper()
	if err := b.Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	var found backend.Observed
	until(t, "usable", func() bool {
		found = observe(t, b, want)
		return found.Usable && login(t, found.Admin) == nil
	})
	return found.Admin
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("server is not %s within a minute", what)
		case <-tick.C:
		}
	}
}

func login(t *testing.T, target postgres.Target) error {
	t.Helper()
	config, err := target.ConnConfig()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		return err
	}
	return conn.Close(t.Context())
}

func connect(t *testing.T, target postgres.Target) *pgx.Conn {
	t.Helper()
	config, err := target.ConnConfig()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func exec(t *testing.T, target postgres.Target, sql string) {
	t.Helper()
	if _, err := connect(t, target).Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func query(t *testing.T, target postgres.Target, sql string) string {
	t.Helper()
	var out string
	if err := connect(t, target).QueryRow(t.Context(), sql, pgx.QueryExecModeSimpleProtocol).Scan(&out); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// postmaster is the process id of the server itself, read from its data folder.
func postmaster(t *testing.T, target postgres.Target) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(query(t, target, `SHOW data_directory`), "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, _, _ := strings.Cut(string(raw), "\n")
	return pid
}

func kill(t *testing.T, target postgres.Target, signal syscall.Signal) {
	t.Helper()
	pid, err := strconv.Atoi(postmaster(t, target))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
}

func give(t *testing.T, path string) {
	t.Helper()
	account, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(account.Uid)
	if err := os.Chown(path, uid, -1); err != nil {
		t.Fatal(err)
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestALookerSeesServersAndTouchesNone(t *testing.T) {
	t.Parallel()
	dir, one := folder(t), server("one", "17")
	b, looker := open(t, dir), local.Looker{Dir: dir}
	if found, err := looker.Observe(t.Context(), one); err != nil || found.Reason != local.Absent {
		t.Fatalf("before it is made: %+v, %v", found, err)
	}
	admin := up(t, b, one)
	found, err := looker.Observe(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(backend.Observed{Exists: true, Usable: true, Admin: admin}, found); diff != "" {
		t.Fatal(diff)
	}
	if err := looker.Apply(t.Context(), server("two", "17")); !errors.Is(err, local.ErrLookOnly) {
		t.Fatalf("Apply: %v", err)
	}
	if err := looker.Delete(t.Context(), "one"); !errors.Is(err, local.ErrLookOnly) {
		t.Fatalf("Delete: %v", err)
	}
	if names, err := looker.List(t.Context()); err != nil || !cmp.Equal(names, []string{"one"}) {
		t.Fatalf("List names %v, %v", names, err)
	}
	if err := login(t, admin); err != nil {
		t.Fatal(err)
	}
}
