package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/postgres"
)

// Looker sees the servers of a folder that another process runs. It starts,
// makes and deletes nothing.
type Looker struct{ Dir string }

var (
	_ backend.Backend  = Looker{}
	_ backend.Featured = Looker{}
)

// ErrLookOnly is the answer to every verb but Observe and List.
var ErrLookOnly = errors.New("this process may only look at local servers")

// Observe takes a server that was made for usable: the process that runs it
// keeps it so, and a connection tells otherwise.
func (l Looker) Observe(_ context.Context, want backend.Server) (backend.Observed, error) {
	if err := checkID(want.ID); err != nil {
		return backend.Observed{}, err
	}
	dir := filepath.Join(l.Dir, want.ID)
	r, err := readRecord(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && !r.Made {
		return backend.Observed{Reason: Absent, Message: "The server is not made yet."}, nil
	}
	if err != nil {
		return backend.Observed{}, err
	}
	password, err := os.ReadFile(filepath.Join(dir, adminName))
	if err != nil {
		return backend.Observed{}, fmt.Errorf("reading password: %w", err)
	}
	return backend.Observed{Exists: true, Usable: true, Admin: administrator(r, string(password))}, nil
}

// Apply refuses.
func (Looker) Apply(context.Context, backend.Server) error { return ErrLookOnly }

// Delete refuses.
func (Looker) Delete(context.Context, string) error { return ErrLookOnly }

// List names the servers that were made.
func (l Looker) List(context.Context) ([]string, error) {
	records, err := filepath.Glob(filepath.Join(l.Dir, "*", recordName))
	ids := make([]string, len(records))
	for i, record := range records {
		ids[i] = filepath.Base(filepath.Dir(record))
	}
	return ids, err
}

// Supports is what the Backend itself supports.
func (Looker) Supports(f backend.Feature) bool { return (&Backend{}).Supports(f) }

func administrator(r record, password string) postgres.Target {
	return postgres.Target{Host: host, Port: uint16(r.Port), User: superuser, Password: password, Database: "postgres", SSLMode: "disable"}
}
