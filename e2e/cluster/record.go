package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Record is what a state folder tells of its cluster.
type Record struct {
	Network Network // kept for good: the addresses are in certificates and Services
	Ready   bool
	Pid     int    // of the supervisor
	Life    string // tells that process from a later one with the same id
}

var (
	// ErrNotRunning is returned for a folder whose cluster has ended, or that
	// never had one.
	ErrNotRunning = errors.New("no cluster is running there")
	// ErrRunning is returned for a folder whose cluster runs.
	ErrRunning = errors.New("a cluster is running there")
)

// Find returns the record of the cluster that runs in dir, and a handle on its
// supervisor that cannot reach any other process.
func Find(dir string) (Record, *os.Process, error) {
	record, err := readRecord(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, nil, ErrNotRunning
	}
	if err != nil {
		return Record{}, nil, err
	}
	// The handle comes first: it stays with the process whose life is then compared.
	supervisor, err := os.FindProcess(record.Pid)
	if err != nil {
		return Record{}, nil, fmt.Errorf("finding process %d: %w", record.Pid, err)
	}
	if life, err := life(record.Pid); err != nil || life != record.Life {
		return Record{}, nil, errors.Join(ErrNotRunning, supervisor.Release())
	}
	return record, supervisor, nil
}

// Remove deletes what the ended cluster of dir has left on the machine and,
// unless keep is set, its state. It returns ErrRunning when it has not ended.
func Remove(dir string, keep bool) error {
	record, err := readRecord(dir)
	if errors.Is(err, fs.ErrNotExist) { // a folder without a record is not ours
		return nil
	}
	if err != nil {
		return err
	}
	lock, err := lock(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := record.Network.sweepUnclaimed(); err != nil || keep {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("reading folder: %w", err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return fmt.Errorf("removing state: %w", err)
		}
	}
	return nil
}

func readRecord(dir string) (Record, error) {
	data, err := os.ReadFile(recordFile(dir))
	if err != nil {
		return Record{}, fmt.Errorf("reading record: %w", err)
	}
	record := Record{}
	if err := json.Unmarshal(data, &record); err != nil {
		return Record{}, fmt.Errorf("reading %s: %w", recordFile(dir), err)
	}
	return record, nil
}

// current makes this process the record's supervisor.
func current(record Record) (Record, error) {
	var err error
	record.Pid = os.Getpid()
	record.Life, err = life(record.Pid)
	return record, err
}

// write replaces the record in one step.
func (r Record) write(dir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding record: %w", err)
	}
	file := recordFile(dir)
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return fmt.Errorf("writing record: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("writing record: %w", err)
	}
	return nil
}

func recordFile(dir string) string { return filepath.Join(dir, "cluster.json") }

// life is the machine's boot and the tick of it in which the process started.
func life(pid int) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading boot id: %w", err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", fmt.Errorf("reading process %d: %w", pid, err)
	}
	// The name, in parentheses, may hold anything; the start is field 22.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return "", fmt.Errorf("reading process %d: %w", pid, os.ErrProcessDone)
	}
	return strings.TrimSpace(string(boot)) + "/" + fields[19], nil
}

// lock keeps a second cluster out of the folder. The kernel releases it when
// this process ends.
func lock(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, ErrRunning), file.Close())
	}
	return file, nil
}
