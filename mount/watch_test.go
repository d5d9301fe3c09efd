package mount_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berth-dev/berth/mount"
	"github.com/berth-dev/berth/postgres"
)

func as(user string) postgres.Target {
	target := orders
	target.User = user
	return target
}

func expectProblem(t *testing.T, problems <-chan error, want error, what string) {
	t.Helper()
	for !errors.Is(within(t, problems, what), want) {
		continue // it may look in the middle of what the test does to the folder
	}
}

func TestWatchDeliversEachChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	publish(t, dir, keys(as("one")))
	credentials := mount.Dir(dir).Watch(t.Context(), nil)
	if c := within(t, credentials, "what was there before"); c.User != "one" {
		t.Fatalf("user = %q", c.User)
	}
	for n := range 20 {
		user := fmt.Sprintf("user%d", n)
		began := time.Now()
		publish(t, dir, keys(as(user)))
		if c := within(t, credentials, user); c.User != user {
			t.Fatalf("user = %q, want %q", c.User, user)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s came after %v", user, took)
		}
	}
}

func TestWatchDeliversOnlyWhatChangedAndIsWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	publish(t, dir, keys(as("one")))
	problems := make(chan error, 100)
	credentials := mount.Dir(dir).Watch(t.Context(), func(err error) { problems <- err })
	within(t, credentials, "the first")

	publish(t, dir, keys(as("one"))) // no change
	publish(t, dir, map[string]string{"uri_dsn.txt": "postgresql://two:half"})
	expectProblem(t, problems, mount.ErrMalformed, "half a URI")
	for range 10 {
		write(t, dir, map[string]string{"other": "wakes the watch"})
	}
	if err := os.Remove(filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if err := within(t, problems, "a Secret that went away"); !errors.Is(err, mount.ErrMissing) {
		t.Fatalf("problem = %v: the same one was told again", err)
	}
	publish(t, dir, keys(as("three")))
	if c := within(t, credentials, "the next whole one"); c.User != "three" {
		t.Fatalf("user = %q, want three: the same or half of one was delivered", c.User)
	}
}

// A slow receiver gets the newest, and the watch does not wait for it.
func TestWatchKeepsTheNewest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	problems := make(chan error, 100)
	credentials := mount.Dir(dir).Watch(t.Context(), func(err error) { problems <- err })
	publish(t, dir, keys(as("old")))
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for len(credentials) == 0 {
		<-again.C
	}
	for n := range 100 {
		publish(t, dir, keys(as(fmt.Sprintf("new%d", n))))
		<-again.C
	}
	publish(t, dir, map[string]string{"uri_dsn.txt": "broken"})
	expectProblem(t, problems, mount.ErrMalformed, "all versions were looked at")
	if c := within(t, credentials, "a credential"); c.User == "old" {
		t.Fatal("the oldest credential was kept for the receiver")
	}
}

func TestWatchFindsAFolderThatComesLater(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "later")
	problems := make(chan error, 100)
	credentials := mount.Dir(dir).Watch(t.Context(), func(err error) { problems <- err })
	expectProblem(t, problems, mount.ErrMissing, "no folder")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	publish(t, dir, keys(as("one")))
	if c := within(t, credentials, "the first"); c.User != "one" {
		t.Fatalf("user = %q", c.User)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	expectProblem(t, problems, mount.ErrMissing, "the folder is gone")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	publish(t, dir, keys(as("two")))
	if c := within(t, credentials, "the folder made anew"); c.User != "two" {
		t.Fatalf("user = %q", c.User)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	credentials := mount.Dir(t.TempDir()).Watch(ctx, nil)
	cancel()
	select {
	case _, open := <-credentials:
		if open {
			t.Fatal("a credential out of nothing")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the channel stays open")
	}
}
