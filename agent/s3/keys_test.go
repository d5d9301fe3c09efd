package s3_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/agent/s3"
)

// issuer gives keys that live for an hour, and takes a second over it.
type issuer struct {
	calls atomic.Int64
	fail  atomic.Bool
}

func (i *issuer) keys(ctx context.Context) (s3.Keys, error) {
	n := i.calls.Add(1)
	select {
	case <-ctx.Done():
		return s3.Keys{}, ctx.Err()
	case <-time.After(time.Second):
	}
	if i.fail.Load() {
		return s3.Keys{}, errors.New("refused")
	}
	return s3.Keys{AccessKeyID: fmt.Sprintf("key%d", n), SecretAccessKey: "hidden", Expires: time.Now().Add(time.Hour)}, nil
}

func TestLease(t *testing.T) {
	t.Parallel()
	for name, story := range map[string]func(*testing.T, *issuer, *s3.Lease){
		"asks once for any number that wait": func(t *testing.T, i *issuer, l *s3.Lease) {
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() { expectKey(t, l, "key1") })
			}
			all.Wait()
			expectCalls(t, i, 1)
		},
		"keeps keys until two minutes before their end": func(t *testing.T, i *issuer, l *s3.Lease) {
			expectKey(t, l, "key1")
			wait(58*time.Minute - 2*time.Second)
			expectKey(t, l, "key1")
			wait(3 * time.Second)
			expectKey(t, l, "key2")
			expectCalls(t, i, 2)
		},
		"renews once for all that were refused the same keys": func(t *testing.T, i *issuer, l *s3.Lease) {
			held, err := l.Current(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			for n := range 50 {
				all.Go(func() {
					wait(time.Duration(n) * 100 * time.Millisecond) // some come after the renewal has ended
					if newer, err := l.After(t.Context(), held.Generation); err != nil || newer.AccessKeyID != "key2" {
						t.Errorf("got %s, %v", newer.AccessKeyID, err)
					}
				})
			}
			all.Wait()
			expectCalls(t, i, 2)
		},
		"goes on with good keys while a renewal fails": func(t *testing.T, i *issuer, l *s3.Lease) {
			expectKey(t, l, "key1")
			i.fail.Store(true)
			wait(59 * time.Minute)
			expectKey(t, l, "key1")
			wait(2 * time.Minute)
			if _, err := l.Current(t.Context()); !errors.Is(err, s3.ErrNoKeys) {
				t.Errorf("err = %v, want %v", err, s3.ErrNoKeys)
			}
			i.fail.Store(false)
			if _, err := l.Current(t.Context()); err != nil {
				t.Errorf("a failure stays: %v", err)
			}
		},
		"serves others when the caller that began has gone": func(t *testing.T, i *issuer, l *s3.Lease) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := l.Current(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("err = %v", err)
			}
			expectKey(t, l, "key1")
			expectCalls(t, i, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{}
				story(t, i, s3.NewLease(i.keys))
			})
		})
	}
}

func wait(d time.Duration) { <-time.After(d) }

func expectKey(t *testing.T, l *s3.Lease, want string) {
	t.Helper()
	held, err := l.Current(t.Context())
	if err != nil || held.AccessKeyID != want {
		t.Errorf("got %q, %v; want %s", held.AccessKeyID, err, want)
	}
}

func expectCalls(t *testing.T, i *issuer, want int64) {
	t.Helper()
	if got := i.calls.Load(); got != want {
		t.Errorf("the source was asked %d times, want %d", got, want)
	}
}

func TestKeysPrintNoSecret(t *testing.T) {
	t.Parallel()
	k := s3.Keys{AccessKeyID: "shown", SecretAccessKey: "hidden", SessionToken: "hidden", RepositoryPassword: "hidden"}
	for _, form := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, value := range []any{k, &k, s3.Held{Keys: k}} {
			if text := fmt.Sprintf(form, value); strings.Contains(text, "hidden") {
				t.Errorf("%s of %T prints a secret", form, value)
			}
		}
	}
}
