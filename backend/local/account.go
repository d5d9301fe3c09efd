package local

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/berth-dev/berth/process"
)

// accountName is whom servers run as when this program is root, since
// PostgreSQL refuses to.
const accountName = "postgres"

// account is whom servers run as. Its zero value is this program's own.
type account struct {
	name string
	ids  *syscall.Credential // nil when there is no account of that name
}

func serverAccount() account {
	if os.Geteuid() != 0 {
		return account{}
	}
	ids, err := process.Credential(accountName)
	if err != nil {
		ids = nil
	}
	return account{name: accountName, ids: ids}
}

// give hands path over to the account.
func (a account) give(path string) error {
	if a.ids == nil {
		return nil
	}
	return os.Chown(path, int(a.ids.Uid), int(a.ids.Gid))
}

// check says why the account cannot reach folder or program; an empty reason
// means that it can.
func (a account) check(folder, program string) (reason, message string) {
	if a.name == "" {
		return "", ""
	}
	if a.ids == nil {
		return AccountMissing, "PostgreSQL does not run as root, and there is no account " + accountName + ". Make it (useradd --system " + accountName + "), or run berth as another user."
	}
	for _, path := range []string{folder, filepath.Dir(program)} {
		closed, err := a.closedFolder(path)
		if err != nil {
			return FolderNotTraversable, fmt.Sprintf("The folder %s cannot be looked at.", path)
		}
		if closed != "" {
			return FolderNotTraversable, fmt.Sprintf("The account %s may not pass through folder %s, which leads to %s. Allow it: chmod o+x %s", accountName, closed, path, closed)
		}
	}
	return "", ""
}

// closedFolder is the topmost of path and its parents that the account cannot
// pass through, empty when it can pass all.
func (a account) closedFolder(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	closed := ""
	for ; ; path = filepath.Dir(path) {
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return "", err
		}
		bit := uint32(0o001)
		if st.Uid == a.ids.Uid {
			bit = 0o100
		} else if st.Gid == a.ids.Gid {
			bit = 0o010
		}
		if st.Mode&bit == 0 {
			closed = path
		}
		if path == filepath.Dir(path) {
			return closed, nil
		}
	}
}
