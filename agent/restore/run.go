package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kopia/kopia/snapshot"

	"github.com/berth-dev/berth/process"
)

// worker carries one job out.
type worker struct {
	job     Job
	report  func(Progress)
	journal *journal
	found   found
	server  *server
	result  Result
}

// Run carries j out and gives what it found, which is also in the files that j
// names. The error is only of writing those: what went wrong with the restore
// is in the result. report is called often, by many goroutines.
func Run(ctx context.Context, j Job, report func(Progress)) (Result, error) {
	w := &worker{job: j, report: report, result: Result{Run: j.Run, StartedAt: time.Now().UTC()}}
	err := w.work(ctx)
	if ctx.Err() != nil {
		err = &Fault{Interrupted, fmt.Errorf("working: %w", context.Cause(ctx))}
	}
	if w.journal != nil {
		w.result.Fixes = w.journal.Fixes
	}
	w.result.EndedAt = time.Now().UTC()
	w.result = Decide(w.result, err)
	return w.result, w.publish()
}

// work does all of it. What an earlier run finished is not done again.
func (w *worker) work(ctx context.Context) error {
	if err := w.job.complete(); err != nil {
		return &Fault{Unsuitable, err}
	}
	if err := os.MkdirAll(filepath.Join(w.job.Target, ownDir), 0o700); err != nil {
		return onDisk("making the target", err)
	}
	// The account passes through, and cannot look around.
	if err := os.Chmod(w.job.Target, 0o711); err != nil {
		return onDisk("opening the target", err)
	}
	lock, err := w.lock()
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if err := w.bring(ctx); err != nil {
		return err
	}
	if w.server, err = newServer(w.found, w.job, w.journal); err != nil {
		return err
	}
	defer w.server.remove()
	return w.server.blame(w.judge(ctx))
}

// lock keeps a second worker out; the kernel lets go of it at any end of ours.
func (w *worker) lock() (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(w.job.Target, ownDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, onDisk("opening the target's lock", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(&Fault{Interrupted, fmt.Errorf("locking the target, which another worker uses: %w", err)}, f.Close())
	}
	return f, nil
}

// bring has the snapshot's files in the target, and a data directory that can
// be started.
func (w *worker) bring(ctx context.Context) error {
	r, err := openRepository(ctx, w.job)
	if err != nil {
		return err
	}
	defer r.close(context.WithoutCancel(ctx))
	defer func() {
		if r.client != nil {
			totals := r.client.Traffic.Totals()
			w.result.Traffic = &totals
		}
	}()
	m, err := r.choose(ctx, w.job.Snapshot)
	if err != nil {
		return err
	}
	w.result.SnapshotID, w.result.SnapshotAt = string(m.ID), m.StartTime.ToTime().UTC()
	if m.IncompleteReason != "" {
		return fault(SnapshotIncomplete, "reading snapshot %s: it was never finished: %s", m.ID, m.IncompleteReason)
	}
	if w.journal, err = openJournal(w.job.Target, string(m.ID)); err != nil {
		return err
	}
	if !w.journal.Fetched {
		if err := w.fetch(ctx, r, m); err != nil {
			return err
		}
	}
	w.result.Files, w.result.Bytes, w.result.FetchSeconds = w.journal.Files, w.journal.Bytes, w.journal.Seconds
	w.result.Checks = append(w.result.Checks, w.journal.Checks...)
	return w.ready()
}

func (w *worker) fetch(ctx context.Context, r *repository, m *snapshot.Manifest) error {
	began := time.Now()
	of, err := r.list(ctx, m)
	if err != nil {
		return err
	}
	data := filepath.Join(w.job.Target, dataDir)
	if err := os.MkdirAll(data, 0o711); err != nil {
		return onDisk("making the data folder", err)
	}
	root, err := os.OpenRoot(data)
	if err != nil {
		return fmt.Errorf("opening the data folder: %w", err)
	}
	defer func() { _ = root.Close() }()
	f := &fetcher{repository: r, root: root, of: of, progress: w.report}
	if err := f.fetch(ctx, w.job.Parallel); err != nil {
		return err
	}
	complete := Check{Name: CheckComplete, Status: Passed, Message: plural(len(of.files), "file"), Seconds: time.Since(began).Seconds()}
	if len(of.missing) > 0 {
		complete.Status, complete.Message = Doubtful, "the source could not read "+brief(of.missing)
	}
	// Looked at now: PostgreSQL changes what it finds.
	if w.found, err = locate(data, w.job.DataPath); err != nil {
		return err
	}
	still := moment(w.found, m.StartTime.ToTime(), newest(of, m))
	still.Name = CheckMoment
	w.journal.Checks = []Check{complete, still}
	w.journal.Files, w.journal.Bytes = len(of.files), of.bytes
	w.journal.Seconds += time.Since(began).Seconds()
	w.journal.Fetched = true
	return w.journal.save()
}

// newest is when the last of the files was changed, folders included.
func newest(of *contents, m *snapshot.Manifest) time.Time {
	var last time.Time
	if s := m.RootEntry.DirSummary; s != nil {
		last = s.MaxModTime.ToTime()
	}
	for _, e := range of.files {
		if e.ModTime().After(last) {
			last = e.ModTime()
		}
	}
	return last
}

// ready makes the fetched data directory one that can be started here.
func (w *worker) ready() error {
	data := filepath.Join(w.job.Target, dataDir)
	var err error
	if w.found, err = locate(data, w.job.DataPath); err != nil {
		return err
	}
	w.result.Version, w.result.DataDir = w.found.major, w.found.dir
	if err := mendLinks(data, w.found); err != nil {
		return err
	}
	root, err := os.OpenRoot(data)
	if err != nil {
		return fmt.Errorf("opening the data folder: %w", err)
	}
	defer func() { _ = root.Close() }()
	dir, err := filepath.Rel(data, w.found.dir)
	if err != nil {
		return fmt.Errorf("naming the data directory: %w", err)
	}
	if err := prepare(root, dir, w.found, w.job); err != nil {
		return err
	}
	if w.job.Account != "" {
		who, err := process.Credential(w.job.Account)
		if err != nil {
			return &Fault{Unsuitable, err}
		}
		if err := give(data, who); err != nil {
			return fault(Unsuitable, "handing the data over: %w", err)
		}
	}
	link := filepath.Join(w.job.Target, dataLink)
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return onDisk("naming the data directory", err)
	}
	to := strings.TrimPrefix(w.found.dir, w.job.Target+"/")
	if err := os.Symlink(to, link); err != nil {
		return onDisk("naming the data directory", err)
	}
	return nil
}

// judge brings the server up, mends it, asks it everything, and leaves it
// stopped, with all of it on disk.
func (w *worker) judge(ctx context.Context) error {
	w.report(Progress{Stage: "recover"})
	recovered, err := w.recover(ctx)
	if err != nil {
		return err
	}
	w.result.Checks = append(w.result.Checks, recovered)
	w.report(Progress{Stage: "repair"})
	if err := w.repair(ctx); err != nil {
		return err
	}
	// Under the locales that were named, without an alias.
	if len(w.server.aliases.names) > 0 {
		w.server.aliases.names = nil
		if err := w.server.stopCleanly(); err != nil {
			return err
		}
		if err := w.server.start(ctx); err != nil {
			return err
		}
	}
	w.report(Progress{Stage: "check"})
	w.result.Checks = append(w.result.Checks, timed(CheckRows, func() (c Check) {
		c, w.result.Databases = w.rows(ctx)
		return c
	}), timed(CheckStructure, func() Check { return w.structure(ctx) }))
	for _, a := range w.job.Checks.Assertions {
		w.result.Checks = append(w.result.Checks, timed("assertion "+a.Name, func() Check { return w.assert(ctx, a, w.result.Databases) }))
	}
	if err := w.server.trouble(w.result.Checks); err != nil {
		return err
	}
	w.report(Progress{Stage: "finish"})
	if err := errors.Join(w.admit(ctx), w.record(ctx)); err != nil {
		return err
	}
	if err := errors.Join(w.server.stopCleanly(), w.journal.save()); err != nil {
		return err
	}
	return syncAll(w.job.Target)
}

func (w *worker) publish() error {
	text, err := json.MarshalIndent(w.result, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	err = writeSynced(filepath.Join(w.job.Target, ownDir, resultName), text)
	if w.job.Result != "" {
		err = errors.Join(err, os.WriteFile(w.job.Result, text, 0o644))
	}
	return err
}
