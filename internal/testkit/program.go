package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var programs = struct {
	sync.Mutex
	files map[string]string
}{files: map[string]string{}}

// Program is the binary berth of this very tree, built once for the test process.
func Program(t testing.TB) string {
	t.Helper()
	return built(t, "berth")
}

// Agent is berth-agent of this very tree, built once for the test process.
func Agent(t testing.TB) string {
	t.Helper()
	return built(t, "berth-agent")
}

func built(t testing.TB, name string) string {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	if file := programs.files[name]; file != "" {
		return file
	}
	dir, err := os.MkdirTemp("", "berth-program-")
	if err != nil {
		t.Fatal(err)
	}
	atExit(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, name)
	build := exec.Command("go", "build", "-buildvcs=false", "-o", file, "./cmd/"+name)
	build.Dir = root(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v: %s", name, err, out)
	}
	programs.files[name] = file
	return file
}
