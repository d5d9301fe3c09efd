package postgres

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestBreakerBacksOffAndLetsOneProbe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b breaker
		down := errors.New("down")
		last := time.Duration(0)
		for range 8 {
			if err := b.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.leave(t.Context(), down)
			opened := time.Now()
			for b.refused() != nil {
				<-time.After(10 * time.Millisecond) // the clock of the bubble: nobody waits
			}
			wait := time.Since(opened)
			if wait < last*3/4 || wait > maxBackoff+10*time.Millisecond {
				t.Fatalf("waited %s after %s", wait, last)
			}
			last = wait
		}
		if last < maxBackoff*3/4 {
			t.Fatalf("the longest wait is %s", last)
		}
		if err := b.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.enter(t.Context()); !errors.Is(err, down) {
			t.Fatalf("a second probe: %v", err)
		}
		b.leave(t.Context(), nil)
		if err := b.refused(); err != nil || !b.fresh() {
			t.Fatalf("after a good probe: %v", err)
		}
	})
}

func TestBreakerWaitsForTheFirstContactOnlyAsLongAsItsPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b breaker
		if err := b.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := b.enter(t.Context()); !errors.Is(err, errNoAnswerYet) || time.Since(start) != firstPatience {
			t.Fatalf("after %s: %v", time.Since(start), err)
		}
		entered := make(chan error)
		b.leave(t.Context(), nil)
		if err := b.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		go func() { entered <- b.enter(t.Context()) }()
		synctest.Wait()
		<-time.After(time.Millisecond) // the clock of the bubble: nobody waits
		b.leave(t.Context(), nil)
		if err := <-entered; err != nil {
			t.Fatalf("after a good contact: %v", err)
		}
		start = time.Now()
		if err := b.enter(t.Context()); !errors.Is(err, errNoAnswerYet) || time.Since(start) != max(patience, 2*b.slowest) {
			t.Fatalf("on a server that is known, after %s: %v", time.Since(start), err)
		}
	})
}

func TestBreakerStaysClosedWhenOnlyConnectionsRanOut(t *testing.T) {
	t.Parallel()
	var b breaker
	if err := b.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.leave(t.Context(), &pgconn.PgError{Code: "53300"})
	if err := b.refused(); err != nil {
		t.Fatal(err)
	}
}
