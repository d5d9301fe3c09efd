// Package local runs PostgreSQL servers as processes of this machine. It makes
// them, keeps them running, finds them again after a restart and removes them;
// each has a folder of its own and listens on loopback alone.
//
// It makes no backups, and never moves data to another major version.
package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/naming"
)

// Options say where servers live and what they are made of.
type Options struct {
	Dir          string            // each server has the folder Dir/<id>; one Backend at a time may use it
	Bin          string            // holds <major>/bin/postgres and <major>/bin/initdb
	DefaultMajor int               // for a server without a wish; zero is the newest in Bin
	Settings     map[string]string // settings of postgresql.conf, over berth's own
	Log          func(format string, args ...any)
}

// Backend keeps the servers of one folder running until Close.
type Backend struct {
	options Options
	account account
	majors  map[int]int   // each major in Bin, with its minor
	making  chan struct{} // bounds how many servers are made at once
	lock    *os.File

	life context.Context // of all servers, from New to Close
	end  context.CancelFunc
	work sync.WaitGroup

	mu       sync.Mutex // guards what follows, and what servers share
	closed   bool
	servers  map[string]*server
	watchers []func(id string)
}

var (
	_ backend.Featured = (*Backend)(nil)
	_ backend.Watched  = (*Backend)(nil)
)

// New opens the servers in o.Dir, and starts none: Resume, Observe and Apply
// do. It fails when Bin holds no PostgreSQL, or Dir has another user.
func New(o Options) (*Backend, error) {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	var err error
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, fmt.Errorf("resolving folder of servers: %w", err)
	}
	if o.Bin, err = filepath.Abs(o.Bin); err != nil {
		return nil, fmt.Errorf("resolving folder of PostgreSQL: %w", err)
	}
	b := &Backend{options: o, account: serverAccount(), servers: map[string]*server{}}
	b.life, b.end = context.WithCancel(context.Background())
	b.making = make(chan struct{}, max(2, runtime.NumCPU()))
	if b.majors, err = installed(o.Bin); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("making folder of servers: %w", err)
	}
	if b.lock, err = lockFolder(o.Dir); err != nil {
		return nil, err
	}
	if err := b.readServers(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// lockFolder makes sure that no second program starts the same servers. The
// kernel lets go of the lock when this program ends in any way.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening lock of %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s, which another berth uses: %w", dir, err), f.Close())
	}
	return f, nil
}

func (b *Backend) readServers() error {
	entries, err := os.ReadDir(b.options.Dir)
	if err != nil {
		return fmt.Errorf("reading folder of servers: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range entries {
		if removed.MatchString(e.Name()) {
			if err := os.RemoveAll(filepath.Join(b.options.Dir, e.Name())); err != nil {
				return fmt.Errorf("removing a deleted server: %w", err)
			}
		}
		if !e.IsDir() || checkID(e.Name()) != nil {
			continue
		}
		s := b.newServer(e.Name())
		s.written, err = readRecord(s.dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // its making was cut short before anything was in it
		}
		if err != nil {
			s.found = backend.Observed{Exists: true, Permanent: true, Reason: RecordMalformed,
				Message: "The file " + filepath.Join(s.dir, recordName) + " cannot be read. Put it right and start berth again."}
			s.broken = true
		}
		s.record, b.servers[s.id] = s.written, s
		if s.record.Deleting {
			b.delete(s)
		}
	}
	return nil
}

// identifier lets no path leave the folder of servers: no slash, no dot first.
var identifier = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$`)

// ErrID is in the chain of an error for an id that no server can have.
var ErrID = errors.New("a server id has 1 to 50 of a-z, 0-9, '-' and '.', and starts and ends with a letter or digit")

func checkID(id string) error {
	if len(id) > naming.ServerLimit || !identifier.MatchString(id) {
		return fmt.Errorf("checking server id %.60q: %w", id, ErrID)
	}
	return nil
}

// Observe says what there is of the server, from memory. A server that berth
// made before and that does not run yet is started by it.
func (b *Backend) Observe(_ context.Context, want backend.Server) (backend.Observed, error) {
	if err := checkID(want.ID); err != nil {
		return backend.Observed{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.servers[want.ID]
	if s != nil && s.record.Made {
		b.start(s)
	}
	if why, ok := b.refuse(want, s); ok {
		return why, nil
	}
	if s == nil {
		return backend.Observed{Reason: Absent, Message: "The server is not made yet."}, nil
	}
	return s.found, nil
}

// Apply starts to make the server, or to run it again. It does nothing for a
// wish that Observe refuses, nor while the server is being deleted.
func (b *Backend) Apply(_ context.Context, want backend.Server) error {
	if err := checkID(want.ID); err != nil {
		return err
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return fmt.Errorf("starting server %s: %w", want.ID, errClosed)
	}
	s := b.servers[want.ID]
	if _, refused := b.refuse(want, s); refused {
		b.mu.Unlock()
		return nil
	}
	if s == nil {
		s = b.newServer(want.ID)
		b.servers[s.id] = s
	}
	major := b.major(want, s)
	b.mu.Unlock()
	if err := s.save(func(r *record) { r.wish(major, want.Wishes.Tags) }); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.start(s)
	return nil
}

var errClosed = errors.New("the backend is closed")

// Delete starts the end of the server and of all its data, whatever state it
// is in. Once it returned nil, not even a crash of this program stops that.
func (b *Backend) Delete(_ context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	b.mu.Lock()
	s, closed := b.servers[id], b.closed
	b.mu.Unlock()
	if s == nil {
		return nil
	}
	if closed {
		return fmt.Errorf("deleting server %s: %w", id, errClosed)
	}
	if err := s.save(func(r *record) { r.Deleting = true }); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed && !s.removing {
		b.delete(s)
	}
	return nil
}

// List names every server in the folder, half made ones too.
func (b *Backend) List(context.Context) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.servers)), nil
}

// Supports is true for a version and for tags, which are kept beside the data.
func (b *Backend) Supports(f backend.Feature) bool {
	return f == backend.Version || f == backend.Tags
}

// OnChange has notify called whenever a server became usable, stopped or is gone.
func (b *Backend) OnChange(notify func(id string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers = append(b.watchers, notify)
}

// Resume starts every server that was made before; it waits for none.
func (b *Backend) Resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.servers {
		b.start(s)
	}
}

// Close stops every server, orderly while that takes seconds, and leaves the
// data. It returns when all are gone; no verb starts anything after it.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	b.end()
	b.work.Wait()
	return b.lock.Close()
}
