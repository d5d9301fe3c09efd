// Package testkit starts the real programs that tests need: PostgreSQL servers
// of several majors, and an API server. Each is started once per test process,
// when first asked for, and is gone with its files when that process ends.
//
// It fakes nothing. A program that is missing fails the test with the command
// that installs it.
package testkit

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
)

var exits struct {
	sync.Mutex
	work []func()
}

// atExit has f run after the tests of this process, last registered first.
func atExit(f func()) {
	exits.Lock()
	defer exits.Unlock()
	exits.work = append(exits.work, f)
}

// Main runs the tests, stops everything that was started, then runs checks,
// and exits. TestMain of a package that uses the testkit calls it.
func Main(m interface{ Run() int }, checks ...func() error) {
	allowMore()
	code := m.Run()
	exits.Lock()
	work := exits.work
	exits.work = nil
	exits.Unlock()
	for i := len(work) - 1; i >= 0; i-- {
		work[i]()
	}
	for _, check := range checks {
		if err := check(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// root is the repository's folder.
func root(t testing.TB) string {
	t.Helper()
	dir, err := findRoot()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// findRoot is the folder of go.mod, at or above the working directory.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("finding the repository: there is no go.mod above the working directory")
		}
	}
}

// allowMore lets more tests run at once than there are processors, unless the
// command line says how many: they wait for servers more than they compute.
func allowMore() {
	flag.Parse()
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if !said {
		_ = flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))) // a flag every test binary has
	}
}
