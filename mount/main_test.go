package mount_test

import (
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var versions atomic.Int64

// publish shows data at dir as the kubelet does: a new folder, the link
// ..data put onto it by one rename, the old folder removed.
func publish(t testing.TB, dir string, data map[string]string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	old, _ := os.Readlink(filepath.Join(dir, "..data"))
	version := "..v" + strconv.FormatInt(versions.Add(1), 10)
	must(os.Mkdir(filepath.Join(dir, version), 0o755))
	for key, value := range data {
		must(os.WriteFile(filepath.Join(dir, version, key), []byte(value), 0o600))
	}
	must(os.Symlink(version, filepath.Join(dir, "..data_tmp")))
	must(os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	for key := range data {
		if err := os.Symlink(filepath.Join("..data", key), filepath.Join(dir, key)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	if old != "" {
		must(os.RemoveAll(filepath.Join(dir, old)))
	}
}

func write(t testing.TB, dir string, data map[string]string) {
	t.Helper()
	for key, value := range data {
		if err := os.WriteFile(filepath.Join(dir, key), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// within fails unless the channel delivers in time.
func within[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v, open := <-c:
		if !open {
			t.Fatalf("%s: the channel was closed", what)
		}
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: nothing in 10 s", what)
	}
	panic("unreachable")
}
