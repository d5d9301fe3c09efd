package image

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
)

// PostgresUser is whom the PostgreSQL images run as.
const PostgresUser = "999:999"

// serve makes the data folder once and serves it. Only who has a password gets
// in, by whatever way.
const serve = `#!/bin/sh
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb --locale=C --encoding=UTF8 --username=postgres --auth=scram-sha-256 --pwfile="$POSTGRES_PASSWORD_FILE"
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp -c hba_file=/etc/pg_hba.conf "$@"
`

// leftOut are compilers, and languages whose interpreters are not there.
var leftOut = regexp.MustCompile(`^/lib/(bitcode|pgxs)$|/llvmjit|plperl|plpython|pltcl`)

// Postgres is a PostgreSQL for the stories, from a folder with bin, lib and
// share, or from Debian's when that is where the folder is. It wants PGDATA and
// POSTGRES_PASSWORD_FILE; arguments go to the server.
func Postgres(s *System, folder string) (Image, error) {
	t := NewTree()
	real, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return Image{}, fmt.Errorf("finding PostgreSQL (run: make tools): %w", err)
	}
	at := "/usr/lib/postgresql/" + filepath.Base(real)
	err = t.AddFolder(at, real, func(below string) bool { return leftOut.MatchString(below) })
	if share := filepath.Join(s.Root, "usr/share/postgresql", filepath.Base(real)); real == filepath.Join(s.Root, at) {
		err = errors.Join(err, t.AddFolder("/usr/share/postgresql/"+filepath.Base(real), share, func(below string) bool { return below == "/man" }))
	}
	err = errors.Join(err,
		t.AddFolder("/usr/share/zoneinfo", filepath.Join(s.Root, "usr/share/zoneinfo"), func(below string) bool { return below == "/right" || below == "/posix" }),
		t.Add("/bin/sh", filepath.Join(s.Root, "bin/dash")),
		t.Complete(s.Root),
	)
	t.Script("/usr/bin/serve", serve)
	t.Write("/etc/pg_hba.conf", "local all all scram-sha-256\nhost all all all scram-sha-256\n")
	t.Write("/etc/passwd", "root:x:0:0:root:/:/\npostgres:x:999:999:postgres:/tmp:/bin/sh\n")
	t.Write("/etc/group", "root:x:0:\npostgres:x:999:\n")
	t.Write("/etc/nsswitch.conf", "hosts: files dns\n")
	t.Scratch("/tmp")
	return Image{
		Architecture: s.Architecture, Files: t, User: PostgresUser,
		Entrypoint: []string{"/usr/bin/serve"}, Env: []string{"PATH=/usr/bin:/bin:" + at + "/bin"},
	}, err
}
