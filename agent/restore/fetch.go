package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/kopia/kopia/fs"
	"github.com/kopia/kopia/snapshot"
	"github.com/kopia/kopia/snapshot/snapshotfs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Progress is how far a restore has come.
type Progress struct {
	Stage      string `json:"stage"`
	Files      int64  `json:"files,omitempty"`
	FilesTotal int64  `json:"filesTotal,omitempty"`
	Bytes      int64  `json:"bytes,omitempty"`
	BytesTotal int64  `json:"bytesTotal,omitempty"`
}

// contents are what a snapshot holds.
type contents struct {
	folders []string
	files   []entry
	links   []entry
	bytes   int64
	missing []string // the source could not read these
}

type entry struct {
	path string
	fs.Entry
}

// list walks the whole snapshot: afterwards it is known how much there is.
func (r *repository) list(ctx context.Context, m *snapshot.Manifest) (*contents, error) {
	root, err := snapshotfs.SnapshotRoot(r, m)
	if err != nil {
		return nil, r.explain(fmt.Errorf("reading snapshot %s: %w", m.ID, err))
	}
	top, ok := root.(fs.Directory)
	if !ok {
		return nil, fault(NoDatabase, "reading snapshot %s: it is of a single file", m.ID)
	}
	c := &contents{}
	if err := c.walk(ctx, "", top); err != nil {
		return nil, r.explain(fmt.Errorf("reading snapshot %s: %w", m.ID, err))
	}
	if s := m.RootEntry.DirSummary; s != nil {
		for _, failed := range s.FailedEntries {
			c.missing = append(c.missing, failed.EntryPath)
		}
		if n := s.FatalErrorCount + s.IgnoredErrorCount - len(c.missing); n > 0 {
			c.missing = append(c.missing, fmt.Sprintf("%d more", n))
		}
		if s.TotalFileCount != int64(len(c.files)) || s.TotalFileSize != c.bytes {
			return nil, fault(SnapshotIncomplete, "reading snapshot %s: it should hold %d files of %d bytes, and lists %d of %d",
				m.ID, s.TotalFileCount, s.TotalFileSize, len(c.files), c.bytes)
		}
	}
	return c, nil
}

func (c *contents) walk(ctx context.Context, dir string, d fs.Directory) error {
	return fs.IterateEntries(ctx, d, func(ctx context.Context, e fs.Entry) error {
		if name := e.Name(); name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || strings.HasSuffix(name, partialMark) {
			return fmt.Errorf("%s holds the unusable name %q", dir, name)
		}
		at := path.Join(dir, e.Name())
		switch e := e.(type) {
		case fs.Directory:
			c.folders = append(c.folders, at)
			return c.walk(ctx, at, e)
		case fs.File:
			c.files, c.bytes = append(c.files, entry{at, e}), c.bytes+e.Size()
		case fs.Symlink:
			c.links = append(c.links, entry{at, e})
		default:
			c.missing = append(c.missing, at)
		}
		return nil
	})
}

// fetcher writes a snapshot into the target. It follows no link there, so
// nothing in a snapshot can reach outside.
type fetcher struct {
	repository *repository
	root       *os.Root // the target's data folder
	progress   func(Progress)
	of         *contents
	skipped    atomic.Int64 // bytes that were there already

	mu  sync.Mutex
	now Progress
}

// fetch brings every file that is not there yet. A file under its own name is
// whole: it was written beside, given its time, and renamed.
func (f *fetcher) fetch(ctx context.Context, parallel int) error {
	for _, folder := range f.of.folders {
		if err := f.root.MkdirAll(folder, 0o700); err != nil {
			return onDisk("making folder "+folder, err)
		}
	}
	f.now = Progress{Stage: "fetch", FilesTotal: int64(len(f.of.files)), BytesTotal: f.of.bytes}
	if err := f.checkRoom(); err != nil {
		return err
	}
	work, working := errgroup.WithContext(ctx)
	work.SetLimit(parallel)
	// The largest first, so that none of them is left to one worker at the end;
	// those of a size stay in their order, in which their packs were written.
	files := slices.Clone(f.of.files)
	slices.SortStableFunc(files, func(a, b entry) int { return cmp.Compare(b.Size()>>26, a.Size()>>26) })
	for _, e := range files {
		if working.Err() != nil {
			break
		}
		work.Go(func() error { return f.file(working, e) })
	}
	if err := work.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return &Fault{Interrupted, err}
	}
	for _, link := range f.of.links {
		if err := f.link(ctx, link); err != nil {
			return err
		}
	}
	return nil
}

// checkRoom finds a disk that is too small before anything was moved.
func (f *fetcher) checkRoom() error {
	var disk unix.Statfs_t
	if err := unix.Statfs(f.root.Name(), &disk); err != nil {
		return fmt.Errorf("looking at the disk: %w", err)
	}
	needed := f.of.bytes
	for _, e := range f.of.files {
		if f.isThere(e) {
			needed -= e.Size()
		}
	}
	if free := int64(disk.Bavail) * disk.Bsize; needed > free {
		return fault(NoSpace, "fetching the snapshot: it needs %d more bytes, and the disk has room for %d", needed, free)
	}
	return nil
}

func (f *fetcher) isThere(e entry) bool {
	st, err := f.root.Lstat(e.path)
	return err == nil && st.Mode().IsRegular() && st.Size() == e.Size() && st.ModTime().Equal(e.ModTime())
}

func (f *fetcher) file(ctx context.Context, e entry) error {
	if f.isThere(e) {
		f.skipped.Add(e.Size())
		f.advance(1, e.Size())
		return nil
	}
	in, err := e.Entry.(fs.File).Open(ctx)
	if err != nil {
		return f.readFault(ctx, e, err)
	}
	defer func() { _ = in.Close() }()
	partial := e.path + partialMark
	out, err := f.root.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return onDisk("making "+e.path, err)
	}
	n, readErr, writeErr := f.copy(ctx, out, in)
	switch writeErr = errors.Join(writeErr, out.Close()); {
	case readErr != nil:
		return f.readFault(ctx, e, readErr)
	case writeErr != nil:
		return onDisk("writing "+e.path, writeErr)
	case n != e.Size():
		return fault(RepositoryCorrupt, "reading %s: it has %d bytes instead of %d", e.path, n, e.Size())
	}
	if err := errors.Join(f.root.Chtimes(partial, e.ModTime(), e.ModTime()), f.root.Rename(partial, e.path)); err != nil {
		return onDisk("finishing "+e.path, err)
	}
	f.advance(1, 0)
	return nil
}

func (f *fetcher) readFault(ctx context.Context, e entry, err error) error {
	if ctx.Err() != nil {
		return &Fault{Interrupted, ctx.Err()}
	}
	return f.repository.explain(fmt.Errorf("reading %s: %w", e.path, err))
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// copy tells the two sides' errors apart: one is the backup's, the other the disk's.
func (f *fetcher) copy(ctx context.Context, out io.Writer, in io.Reader) (n int64, readErr, writeErr error) {
	buffer, _ := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	for ctx.Err() == nil {
		got, err := in.Read(*buffer)
		if got > 0 {
			if _, err := out.Write((*buffer)[:got]); err != nil {
				return n, nil, err
			}
			n += int64(got)
			f.advance(0, int64(got))
		}
		if errors.Is(err, io.EOF) {
			return n, nil, nil
		}
		if err != nil {
			return n, err, nil
		}
	}
	return n, ctx.Err(), nil
}

func (f *fetcher) link(ctx context.Context, e entry) error {
	target, err := e.Entry.(fs.Symlink).Readlink(ctx)
	if err != nil {
		return f.readFault(ctx, e, err)
	}
	if err := f.root.Remove(e.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return onDisk("replacing "+e.path, err)
	}
	if err := f.root.Symlink(target, e.path); err != nil {
		return onDisk("linking "+e.path, err)
	}
	return nil
}

func (f *fetcher) advance(files, bytes int64) {
	f.mu.Lock()
	f.now.Files, f.now.Bytes = f.now.Files+files, f.now.Bytes+bytes
	now := f.now
	f.mu.Unlock()
	f.progress(now)
}

// give hands everything below dir to the account that runs PostgreSQL, links
// themselves included.
func give(dir string, who *syscall.Credential) error {
	if who == nil {
		return nil
	}
	return filepath.WalkDir(dir, func(at string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(at, int(who.Uid), int(who.Gid))
	})
}
