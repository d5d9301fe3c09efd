package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// journal is what a run left for the one that takes over. It is written before
// each effect that must never be forgotten.
type journal struct {
	Snapshot string   `json:"snapshot"`
	Boot     string   `json:"boot"`             // of the machine: what was not synced is lost with it
	Fetched  bool     `json:"fetched"`          // all files came; from here on PostgreSQL owns them
	Checks   []Check  `json:"checks,omitempty"` // of what was fetched; afterwards it changes
	Resort   []string `json:"resort,omitempty"` // databases whose sorted indexes are not right yet
	Fixes    Fixes    `json:"fixes"`
	Files    int      `json:"files"`
	Bytes    int64    `json:"bytes"`
	Seconds  float64  `json:"seconds"` // spent on fetching

	Scratch string `json:"scratch,omitempty"` // a folder outside of the target, to be removed

	path string
}

// Names in the target folder.
const (
	ownDir      = ".berth"
	dataDir     = "data"   // what the snapshot holds
	dataLink    = "pgdata" // leads to the data directory in it
	stateName   = "state.json"
	resultName  = "result.json"
	partialMark = ".berth-part"
)

// openJournal gives the journal to go on with. What another snapshot left, or
// the same one before the machine was started anew, is removed: files that
// were not synced may be whole in length and empty in content.
func openJournal(target, snapshot string) (*journal, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("reading the machine's boot id: %w", err)
	}
	j := &journal{path: filepath.Join(target, ownDir, stateName)}
	text, err := os.ReadFile(j.path)
	if err == nil && json.Unmarshal(text, j) == nil && j.Snapshot == snapshot && j.Boot == strings.TrimSpace(string(boot)) {
		return j, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(target, dataDir)), os.RemoveAll(filepath.Join(target, dataLink))); err != nil {
		return nil, fmt.Errorf("removing an earlier restore: %w", err)
	}
	*j = journal{Snapshot: snapshot, Boot: strings.TrimSpace(string(boot)), path: j.path}
	return j, j.save()
}

// scratch makes a folder whose path is short, as that of a socket must be. The
// one that a killed worker left is removed.
func (j *journal) scratch() (string, error) {
	const mark = "berth-restore-"
	if j.Scratch != "" && filepath.Dir(j.Scratch) == filepath.Clean(os.TempDir()) && strings.HasPrefix(filepath.Base(j.Scratch), mark) {
		if err := os.RemoveAll(j.Scratch); err != nil {
			return "", onDisk("removing a folder", err)
		}
	}
	folder, err := os.MkdirTemp("", mark)
	if err != nil {
		return "", onDisk("making a folder", err)
	}
	j.Scratch = folder
	return folder, j.save()
}

func (j *journal) save() error {
	text, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	return writeSynced(j.path, text)
}

// writeSynced replaces a file all at once, and for good.
func writeSynced(path string, text []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return onDisk("writing "+filepath.Base(path), err)
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return onDisk("writing "+filepath.Base(path), err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return onDisk("writing "+filepath.Base(path), err)
	}
	return nil
}

// syncAll returns once everything written to the file system of dir is on disk.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return onDisk("syncing", err)
	}
	return nil
}

// onDisk tells a disk that is full from other trouble with it.
func onDisk(doing string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return fault(NoSpace, "%s: the disk has no room: %w", doing, err)
	}
	return fault(Unsuitable, "%s: %w", doing, err)
}
