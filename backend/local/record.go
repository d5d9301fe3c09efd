package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const recordName = "server.json"

// record is what outlives this program about one server.
type record struct {
	Major int            `json:"major"`
	Port  int            `json:"port,omitempty"`
	Tags  []v1alpha1.Tag `json:"tags,omitempty"`
	// Made is written last: without it the data folder is half made.
	Made bool `json:"made,omitempty"`
	// Deleting has the next start of berth finish what Delete began.
	Deleting bool `json:"deleting,omitempty"`
}

func readRecord(dir string) (record, error) {
	var r record
	raw, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return r, fmt.Errorf("reading record: %w", err)
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("reading record in %s: %w", dir, err)
	}
	return r, nil
}

// wish notes what a claim asks for. Data that is made keeps its version.
func (r *record) wish(major int, tags []v1alpha1.Tag) {
	r.Tags = tags
	if !r.Made {
		r.Major = major
	}
}

func (s *server) read() record {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.record
}

// save changes the server's record, on disk first. It changes nothing once the
// server was removed. Disks are slow, so the backend's lock is not held meanwhile.
func (s *server) save(change func(*record)) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.b.mu.Lock()
	r, gone := s.record, s.b.servers[s.id] != s
	s.b.mu.Unlock()
	change(&r)
	if gone {
		return nil
	}
	if !reflect.DeepEqual(r, s.written) {
		if err := writeRecord(s.dir, r); err != nil {
			return fmt.Errorf("recording server %s: %w", s.id, err)
		}
		s.written = r
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	change(&s.record)
	return nil
}

func writeRecord(dir string, r record) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, recordName), append(raw, '\n'))
}

// writeFile puts data at path as a whole or not at all, for our eyes only.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
