package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"

	"github.com/berth-dev/berth/backend"
)

// removed is what the folder of a deleted server is called until its files are gone.
var removed = regexp.MustCompile(`^\.removed-`)

func (s *server) waste() string { return filepath.Join(s.b.options.Dir, ".removed-"+s.id) }

// delete ends whatever runs for s, then removes its folder, again until that
// succeeds. The caller holds the lock.
func (b *Backend) delete(s *server) {
	s.removing = true
	s.found = backend.Observed{Exists: true, Reason: Deleting, Message: "The server and its data are being removed."}
	end, ended := s.end, s.ended
	b.run(s, func(ctx context.Context) {
		if end != nil {
			end()
			<-ended
		}
		for pause := firstPause; ; pause = min(2*pause, longPause) {
			err := s.remove()
			if err == nil {
				return
			}
			s.b.options.Log("server %s: removing it: %v", s.id, err)
			s.tell(backend.Observed{Exists: true, Reason: NotRemoved, Message: "The server's folder cannot be removed, and is tried again: " + err.Error() + "."})
			if !rest(ctx, pause) {
				return
			}
		}
	})
}

// remove takes the server's folder away. It is renamed first, so that no server
// is ever half there: what a crash leaves is waste, which New clears away.
func (s *server) remove() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	if err := os.RemoveAll(s.waste()); err != nil {
		return err
	}
	if err := os.Rename(s.dir, s.waste()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := syncFolder(s.b.options.Dir); err != nil {
		return err
	}
	if err := os.RemoveAll(s.waste()); err != nil {
		return err
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	delete(s.b.servers, s.id)
	s.b.changed(s.id)
	s.b.options.Log("server %s: removed", s.id)
	return nil
}
