package claim_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
)

// history is what a Secret told, and when.
type history struct {
	mu      sync.Mutex
	entries []told
}

type told struct {
	since  time.Time
	secret map[string]string
}

func (h *history) add(s *corev1.Secret) {
	data := map[string]string{}
	for key, value := range s.Data {
		data[key] = string(value)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.entries); n == 0 || !maps.Equal(h.entries[n-1].secret, data) {
		h.entries = append(h.entries, told{time.Now(), data})
	}
}

// at is what a reader knew then; the first Secret was always known.
func (h *history) at(then time.Time) map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.entries[0].secret
	for _, e := range h.entries {
		if !e.since.After(then) {
			known = e.secret
		}
	}
	return known
}

func (h *history) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.entries)
}

// follow writes a Secret's history until the test ends.
func follow(t *testing.T, w *world.World, name string) *history {
	t.Helper()
	watching, err := client.NewWithWatch(testkit.APIServer(t), client.Options{Scheme: world.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	events, err := watching.Watch(t.Context(), &corev1.SecretList{}, client.InNamespace(w.Namespace), client.MatchingFields{"metadata.name": name})
	if err != nil {
		t.Fatal(err)
	}
	h, ended := &history{}, make(chan struct{})
	first := make(chan struct{})
	go func() {
		defer close(ended)
		for e := range events.ResultChan() {
			if secret, ok := e.Object.(*corev1.Secret); ok && e.Type != watch.Deleted {
				if h.add(secret); h.len() == 1 {
					close(first)
				}
			}
		}
	}()
	t.Cleanup(func() {
		events.Stop()
		<-ended
	})
	select {
	case <-first:
	case <-time.After(hold * 30):
		t.Fatalf("nobody tells of Secret %s", name)
	}
	return h
}

func TestRotationFailsNoLogin(t *testing.T) {
	t.Parallel()
	const (
		clients = 12
		pause   = 5 * time.Millisecond
		latest  = time.Second // how late the last client sees a Secret
		length  = 15 * time.Second
		rotated = 4 // times, at least
	)
	w := world.New(t, world.Options{Class: func(s *v1alpha1.DatabaseClassSpec) {
		s.Rotation = v1alpha1.RotationPolicy{
			Floor: metav1.Duration{Duration: time.Second}, Period: metav1.Duration{Duration: 2 * time.Second},
			Propagation: &metav1.Duration{Duration: latest + 500*time.Millisecond},
		}
	}})
	c := w.Claim("busy")
	w.Make(c)
	w.Ready(c)
	h := follow(t, w, "busy")
	ctx, cancel := context.WithTimeout(t.Context(), 4*length) // a busy machine rotates late
	defer cancel()
	began := time.Now()
	var logins, failed atomic.Int64
	var why atomic.Value
	var work sync.WaitGroup
	for i := range clients {
		lag := latest * time.Duration(i) / (clients - 1)
		work.Go(func() {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for ctx.Err() == nil && (time.Since(began) < length || h.len() <= rotated) {
				if _, err := w.As(h.at(time.Now().Add(-lag)), "SELECT 1"); err != nil && t.Context().Err() == nil {
					failed.Add(1)
					why.Store(fmt.Sprintf("%s late: %v", lag, err))
				}
				logins.Add(1)
				<-tick.C
			}
		})
	}
	work.Wait()
	rotations := h.len() - 1
	t.Logf("%d logins, %d failed, %d rotations", logins.Load(), failed.Load(), rotations)
	if failed.Load() > 0 {
		t.Errorf("%d of %d logins failed, the last one %v", failed.Load(), logins.Load(), why.Load())
	}
	if rotations < rotated {
		t.Errorf("%d rotations in %s, want at least %d", rotations, time.Since(began), rotated)
	}
	w.Ready(c)
	if c.Status.Credential.Version < int64(rotations) {
		t.Errorf("the status tells version %d after %d rotations", c.Status.Credential.Version, rotations)
	}
	seen := map[string]bool{}
	for _, e := range h.entries {
		if seen[e.secret["password"]] {
			t.Error("a password came back")
		}
		seen[e.secret["password"]] = true
	}
}
