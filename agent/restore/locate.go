package restore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// found is a data directory in what was fetched.
type found struct {
	dir     string // absolute
	major   int
	control control
	label   bool // it has a backup_label: PostgreSQL knows where to begin
}

// control is what pg_control says about the moment the files were copied.
type control struct {
	state int32
	at    time.Time
}

// States of pg_control in which the server was not running.
const (
	shutDown           = 1
	shutDownInRecovery = 2
)

func (c control) running() bool { return c.state != shutDown && c.state != shutDownInRecovery }

// locate finds the data directory below root: the one that wish names; else
// the one that a link named current leads to; else the one with the newest
// major. Two of that major are a question that only the job can answer.
func locate(root, wish string) (found, error) {
	if wish != "" {
		if resolved := within(root, filepath.Join(root, wish)); resolved != "" {
			return inspect(resolved)
		}
		return found{}, fault(NoDatabase, "looking for a data directory: the snapshot does not hold %s", wish)
	}
	var dirs []string
	err := filepath.WalkDir(root, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && isData(at) {
			dirs = append(dirs, at)
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return found{}, fmt.Errorf("looking for a data directory: %w", err)
	}
	if current := rebase(root, filepath.Join(root, "current")); slices.Contains(dirs, current) {
		return inspect(current)
	}
	var best []found
	for _, dir := range dirs {
		f, err := inspect(dir)
		if err != nil {
			return found{}, err
		}
		if len(best) > 0 && f.major > best[0].major {
			best = nil
		}
		if len(best) == 0 || f.major == best[0].major {
			best = append(best, f)
		}
	}
	switch len(best) {
	case 0:
		return found{}, fault(NoDatabase, "looking for a data directory: the snapshot holds none")
	case 1:
		return best[0], nil
	}
	return found{}, fault(Unsuitable, "looking for a data directory: the snapshot holds %d of PostgreSQL %d; name one in dataPath", len(best), best[0].major)
}

// isData tells a data directory from a database's folder, which has a
// PG_VERSION too.
func isData(dir string) bool {
	for _, name := range []string{"PG_VERSION", "global/pg_control", "base"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// rebase finds, below root, what a link led to on the machine of its origin.
func rebase(root, link string) string {
	target, err := os.Readlink(link)
	if err != nil {
		return ""
	}
	parts := strings.Split(path.Clean(strings.ReplaceAll(target, `\`, "/")), "/")
	for i := range parts {
		at := filepath.Join(append([]string{root}, parts[i:]...)...)
		if strings.HasPrefix(at, root+"/") && isData(at) {
			return at
		}
	}
	return ""
}

func inspect(dir string) (found, error) {
	f := found{dir: dir}
	if !isData(dir) {
		return f, fault(NoDatabase, "looking at the data directory: it lacks PG_VERSION, global/pg_control or base")
	}
	text, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if err != nil {
		return f, fmt.Errorf("reading PG_VERSION: %w", err)
	}
	major, _, _ := strings.Cut(strings.TrimSpace(string(text)), ".")
	if f.major, err = strconv.Atoi(major); err != nil || f.major < 10 {
		return f, fault(NoDatabase, "reading PG_VERSION: it names no version from 10 on")
	}
	raw, err := os.ReadFile(filepath.Join(dir, "global", "pg_control"))
	if err != nil {
		return f, fmt.Errorf("reading pg_control: %w", err)
	}
	// The head of the file is the same in every version: id, two versions, state, time.
	if len(raw) < 32 {
		return f, fault(NoDatabase, "reading pg_control: it is cut")
	}
	f.control = control{int32(binary.LittleEndian.Uint32(raw[16:])), time.Unix(int64(binary.LittleEndian.Uint64(raw[24:])), 0).UTC()}
	_, err = os.Stat(filepath.Join(dir, "backup_label"))
	f.label = err == nil
	return f, nil
}

// moment says whether the files are of one moment. A copy of a running server
// may have a page from before a checkpoint whose log is not replayed, and no
// check finds that for certain. It is ruled out when the server was stopped,
// when a backup_label says where to begin, or when nothing had changed after
// the copying began: then the source stood still, as a snapshot of a file
// system does.
func moment(f found, began, newest time.Time) Check {
	switch {
	case !f.control.running():
		return Check{Status: Passed, Message: "the server was stopped"}
	case f.label:
		return Check{Status: Passed, Message: "it is a base backup"}
	case !newest.After(began):
		return Check{Status: Passed, Message: "the source stood still"}
	}
	return Check{Status: Doubtful, Message: "the files were copied one by one while the server wrote to them, not as a base backup"}
}

// within resolves every link on the way to at, and gives nothing when it leads
// out of root: a snapshot may say what it likes.
func within(root, at string) string {
	top, err := filepath.EvalSymlinks(root)
	if err != nil {
		return ""
	}
	resolved, err := filepath.EvalSymlinks(at)
	if err != nil || resolved != top && !strings.HasPrefix(resolved, top+"/") {
		return ""
	}
	return root + strings.TrimPrefix(resolved, top)
}

// mendLinks has tablespaces and pg_wal be folders of what was fetched. A link
// that led elsewhere means that data is missing.
func mendLinks(root string, f found) error {
	spaces, err := filepath.Glob(filepath.Join(f.dir, "pg_tblspc", "*"))
	if err != nil {
		return fmt.Errorf("looking at tablespaces: %w", err)
	}
	for _, at := range append(spaces, filepath.Join(f.dir, "pg_wal")) {
		target, err := os.Readlink(at)
		if err != nil {
			continue // a folder, or none
		}
		inside := inTree(root, target)
		if inside == "" {
			return fault(SnapshotIncomplete, "looking at %s: it leads outside of what the snapshot holds", filepath.Base(filepath.Dir(at))+"/"+filepath.Base(at))
		}
		relative, err := filepath.Rel(filepath.Dir(at), inside)
		if err != nil {
			return fmt.Errorf("linking a tablespace: %w", err)
		}
		if err := errors.Join(os.Remove(at), os.Symlink(relative, at)); err != nil {
			return onDisk("linking a tablespace", err)
		}
	}
	return nil
}

// inTree is the folder below root that has the longest end of target's path.
func inTree(root, target string) string {
	parts := strings.Split(path.Clean(strings.ReplaceAll(target, `\`, "/")), "/")
	for i := range parts {
		at := within(root, filepath.Join(append([]string{root}, parts[i:]...)...))
		if st, err := os.Stat(at); at != "" && at != root && err == nil && st.IsDir() {
			return at
		}
	}
	return ""
}
