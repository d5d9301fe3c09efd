// Package testkit gives tests real servers: a Kubernetes API and PostgreSQL.
//
// A test process starts each server once, when first asked for it. A package
// that asks calls Main from its TestMain, which stops them. It imports no kind
// and no API type, so that every package's tests can use it.
package testkit

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

var cleanups struct {
	sync.Mutex
	list []func()
}

// Main runs the tests, stops what they started, and exits with their code.
func Main(m interface{ Run() int }) {
	code := m.Run()
	cleanups.Lock()
	list := cleanups.list
	cleanups.Unlock()
	for _, stop := range slices.Backward(list) {
		stop()
	}
	os.Exit(code)
}

// atExit has Main call stop after the tests, the latest first.
func atExit(stop func()) {
	cleanups.Lock()
	defer cleanups.Unlock()
	cleanups.list = append(cleanups.list, stop)
}

// root is the repository's folder: the nearest one above with a go.mod.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the working folder")
		}
		dir = filepath.Dir(dir)
	}
}
