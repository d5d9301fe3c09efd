package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var berth = sync.OnceValues(func() (string, error) {
	repository, err := findRoot()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "berth-program-")
	if err != nil {
		return "", fmt.Errorf("making folder: %w", err)
	}
	atExit(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "berth")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", file, "./cmd/berth")
	build.Dir = repository
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building berth: %w: %s", err, out)
	}
	return file, nil
})

// Program is the binary berth of this very tree, built once for the test process.
func Program(t testing.TB) string {
	t.Helper()
	file, err := berth()
	if err != nil {
		t.Fatal(err)
	}
	return file
}
