package naming_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/naming"
)

func TestNamesOfMigrationsFit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		namespace, name := rapid.StringMatching(`[a-z0-9-]{1,63}`).Draw(t, "namespace"), rapid.StringMatching(`[a-z0-9-]{1,63}`).Draw(t, "name")
		id := naming.SuccessorServer(namespace, name, "17")
		if len(id) > naming.ServerLimit || id == naming.DedicatedServer(namespace, name) || id == naming.SuccessorServer(namespace, name, "18") {
			t.Fatalf("%s has %d bytes, or is another server's", id, len(id))
		}
		if m := naming.Migration(name); len(m) > 40 || strings.ToLower(m) != m {
			t.Fatalf("%s is no name for a migration", m)
		}
	})
}
