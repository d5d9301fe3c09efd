package image

import (
	"errors"
	"path/filepath"
	"slices"
)

// User is whom the programs of berth's image run as.
const User = "65532:65532"

// Berth is the image that a cluster runs and that the sidecars use: berth and
// berth-agent from the folder programs, pgbouncer from the system, and the
// authorities that Debian trusts. It has no shell, and runs as User.
func Berth(s *System, programs string) (Image, error) {
	t := NewTree()
	authorities, err := filepath.Glob(filepath.Join(s.Root, "usr/share/ca-certificates/mozilla/*.crt"))
	if err == nil && len(authorities) == 0 {
		err = errors.New("there are no certificate authorities; run: apt-get install ca-certificates")
	}
	slices.Sort(authorities)
	err = errors.Join(err,
		t.Add("/usr/bin/berth", filepath.Join(programs, "berth")),
		t.Add("/usr/bin/berth-agent", filepath.Join(programs, "berth-agent")),
		t.Add("/usr/bin/pgbouncer", filepath.Join(s.Root, "usr/sbin/pgbouncer")),
		t.Concat("/etc/ssl/certs/ca-certificates.crt", authorities...),
		t.Complete(s.Root),
	)
	t.Write("/etc/passwd", "root:x:0:0:root:/:/\nberth:x:65532:65532:berth:/tmp:/\n")
	t.Write("/etc/group", "root:x:0:\nberth:x:65532:\n")
	t.Write("/etc/nsswitch.conf", "hosts: files dns\n")
	t.Scratch("/tmp")
	return Image{
		Architecture: s.Architecture, Files: t, User: User,
		Entrypoint: []string{"/usr/bin/berth"}, Env: []string{"PATH=/usr/bin", "TMPDIR=/tmp"},
		Labels: map[string]string{
			"org.opencontainers.image.title": "berth", "org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.source": "https://github.com/berth-dev/berth",
		},
	}, err
}
