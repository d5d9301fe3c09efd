package testkit

import (
	"errors"
	"net/http"
	"sync"
)

// errCut is what a program sees of the world after its end.
var errCut = errors.New("the program was cut off")

// Fuse counts the effects of a program on the world and cuts the program off
// at one of them, as SIGKILL would. An effect is a request to the API server
// that is no GET, or a round trip to PostgreSQL. The zero value only counts.
type Fuse struct {
	mu      sync.Mutex
	n, at   int
	applied bool
	dead    bool
	lives   int
	blown   chan struct{}
}

type verdict int

const (
	pass   verdict = iota
	lose           // apply it, and let nobody know
	refuse         // the program is dead
)

// Arm counts from zero again and cuts at effect number at: right before it is
// applied, or right after, its answer lost. At 0 cuts nothing.
func (f *Fuse) Arm(at int, applied bool) (blown <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n, f.at, f.applied, f.blown = 0, at, applied, make(chan struct{})
	return f.blown
}

// Count is the number of effects since the fuse was armed.
func (f *Fuse) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// Mend lets another program through. The one that was cut stays dead.
func (f *Fuse) Mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead, f.at = false, 0
	f.lives++
}

func (f *Fuse) life() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lives
}

func (f *Fuse) meet(life int, effect bool) verdict {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead || f.lives != life {
		return refuse
	}
	if !effect {
		return pass
	}
	f.n++
	if f.at == 0 || f.n != f.at {
		return pass
	}
	f.dead = true
	close(f.blown)
	if f.applied {
		return lose
	}
	return refuse
}

// Transport puts the fuse in a program's way to the API server.
func (f *Fuse) Transport(next http.RoundTripper) http.RoundTripper {
	life := f.life()
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		switch f.meet(life, r.Method != http.MethodGet) {
		case refuse:
			return nil, errCut
		case lose:
			if answer, err := next.RoundTrip(r); err == nil {
				_ = answer.Body.Close()
			}
			return nil, errCut
		}
		return next.RoundTrip(r)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

// RoundTrip calls the function.
func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
