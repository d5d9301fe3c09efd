package cluster

import (
	"errors"
	"os"
	"testing"
)

func TestFind(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*Record)
		err    error
	}{
		"finds the process that wrote the record":          {change: func(*Record) {}},
		"takes no later process with the id for it":        {change: func(r *Record) { r.Pid = os.Getppid() }, err: ErrNotRunning},
		"takes no process of an earlier boot for it":       {change: func(r *Record) { r.Life = "x" + r.Life }, err: ErrNotRunning},
		"finds nothing when that process has ended":        {change: func(r *Record) { r.Pid = 1 << 30 }, err: ErrNotRunning},
		"finds nothing when nothing was started from here": {change: nil, err: ErrNotRunning},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if tc.change != nil {
				record, err := current(Record{Network: 200, Ready: true})
				if err != nil {
					t.Fatal(err)
				}
				tc.change(&record)
				if err := record.write(dir); err != nil {
					t.Fatal(err)
				}
			}
			record, supervisor, err := Find(dir)
			if !errors.Is(err, tc.err) {
				t.Fatal(err)
			}
			if err == nil && (record.Network != 200 || supervisor.Pid != os.Getpid()) {
				t.Errorf("it found %+v, %v", record, supervisor)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	t.Run("refuses while a cluster has the folder", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		lock, err := lock(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if err := (Record{Network: 200}).write(dir); err != nil {
			t.Fatal(err)
		}
		if err := Remove(dir, false); !errors.Is(err, ErrRunning) {
			t.Error(err)
		}
	})
	t.Run("leaves a folder alone that never had a cluster", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/letter", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Remove(dir, false); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir + "/letter"); err != nil {
			t.Error(err)
		}
	})
}
