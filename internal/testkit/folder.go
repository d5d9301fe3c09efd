package testkit

import (
	"os"
	"path/filepath"
	"testing"
)

// OpenDir is a folder for this test that PostgreSQL's account can pass through.
func OpenDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "berth-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Bin is a folder below bin/, which `make tools` fills.
func Bin(t testing.TB, name string) string {
	t.Helper()
	return filepath.Join(root(t), "bin", name)
}
