package local

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/berth-dev/berth/backend"
)

const (
	firstPause = 100 * time.Millisecond
	longPause  = 30 * time.Second
	// A server that ran this long starts again at once when it crashes.
	provenAfter = time.Minute
)

// server is one PostgreSQL server and its folder. What follows written is
// guarded by the backend's lock.
type server struct {
	b   *Backend
	id  string
	dir string

	saving  sync.Mutex // held while the record is written or the folder removed
	written record     // what the disk has

	record   record
	found    backend.Observed   // what Observe answers
	broken   bool               // the record cannot be read: hands off
	removing bool               // its remover was started
	end      context.CancelFunc // ends the keeper or remover; nil when there is none
	ended    chan struct{}      // closed when that is gone
}

func (b *Backend) newServer(id string) *server {
	return &server{b: b, id: id, dir: filepath.Join(b.options.Dir, id), found: backend.Observed{
		Exists: true, Reason: Stopped, Message: "The server does not run.",
	}}
}

func (s *server) path(name string) string { return filepath.Join(s.dir, name) }

// start has a keeper run s unless one does. The caller holds the lock.
func (b *Backend) start(s *server) {
	if b.closed || s.broken || s.record.Major == 0 || s.record.Deleting || s.end != nil {
		return
	}
	s.found = backend.Observed{Exists: true, Reason: Starting, Message: "The server is starting."}
	b.run(s, s.keep)
}

// run does work for s until it ends by itself or s.end is called. The caller holds the lock.
func (b *Backend) run(s *server, work func(context.Context)) {
	ctx, end := context.WithCancel(b.life)
	ended := make(chan struct{})
	s.end, s.ended = end, ended
	b.work.Go(func() {
		defer close(ended)
		defer end()
		work(ctx)
	})
}

// keep makes the server if need be and runs it, again after each crash, until ctx ends.
func (s *server) keep(ctx context.Context) {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		began := time.Now()
		err := s.live(ctx)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > provenAfter {
			pause = firstPause
		}
		s.b.options.Log("server %s: %v", s.id, err)
		s.tell(explain(err))
		if !rest(ctx, pause) {
			break
		}
	}
	s.tell(backend.Observed{Exists: true, Reason: Stopped, Message: "The server was stopped."})
}

// rest waits for pause, and reports whether ctx is still alive then.
func rest(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// live is one life of the server: from its making or last crash to its end.
func (s *server) live(ctx context.Context) error {
	if err := s.checkVersion(); err != nil {
		return err
	}
	if err := s.make(ctx); err != nil {
		return err
	}
	p, err := s.launch(ctx)
	if err != nil {
		return err
	}
	defer p.stop()
	admin, err := s.awaitLogin(ctx, p)
	if err != nil {
		return err
	}
	s.b.options.Log("server %s: ready at %s", s.id, admin.Address())
	s.tell(backend.Observed{Exists: true, Usable: true, Admin: admin})
	select {
	case <-p.Done():
		return p.crash(panics)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// checkVersion is for a server whose program was taken off the machine.
func (s *server) checkVersion() error {
	major := s.read().Major
	if _, ok := s.b.majors[major]; ok {
		return nil
	}
	return &finding{backend.Observed{Permanent: true, Reason: VersionUnavailable,
		Message: fmt.Sprintf("The server's data is of PostgreSQL %d, which is not on this machine; there is %s.", major, s.b.versions())}}
}

// finding is an error that says what Observe should answer.
type finding struct{ backend.Observed }

func (f *finding) Error() string { return f.Message }

func explain(err error) backend.Observed {
	var f *finding
	if errors.As(err, &f) {
		f.Exists = true
		return f.Observed
	}
	// The rest come from the file system and from starting programs, and name paths alone.
	return backend.Observed{Exists: true, Reason: Crashed, Message: "The server does not start and is tried again: " + err.Error() + "."}
}

// tell has Observe answer found from now on, and lets the watchers know of a change.
func (s *server) tell(found backend.Observed) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	before := s.found
	if s.record.Deleting && found.Reason != NotRemoved {
		return // that it is being deleted stays what there is to say
	}
	s.found = found
	if before.Usable != found.Usable || before.Reason != found.Reason || before.Message != found.Message || before.Admin.Port != found.Admin.Port {
		s.b.changed(s.id)
	}
}

// changed calls the watchers, which may take their time. The caller holds the lock.
func (b *Backend) changed(id string) {
	for _, notify := range b.watchers {
		go notify(id)
	}
}
