package claim_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/backend/local"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
)

// dedicated is a world whose class gives every claim a server on this machine.
func dedicated(t *testing.T, window time.Duration) (w *world.World, servers *local.Backend, dir string) {
	t.Helper()
	dir = testkit.OpenDir(t)
	servers, err := local.New(local.Options{Dir: dir, Bin: testkit.Bin(t, "pg"), DefaultMajor: 17, Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := servers.Close(); err != nil {
			t.Error(err)
		}
	})
	w = world.New(t, world.Options{
		Backends: map[string]backend.Backend{"local": servers},
		Class: func(s *v1alpha1.DatabaseClassSpec) {
			s.Backend, s.Server, s.Dedicated = "local", nil, true
			s.Deletion.UndoWindow = &metav1.Duration{Duration: window}
		},
	})
	return w, servers, dir
}

func TestDedicatedClaimHasAServerOfItsOwn(t *testing.T) {
	t.Parallel()
	w, servers, _ := dedicated(t, time.Hour)
	one, two := w.Claim("one"), w.Claim("two", func(s *spec) { s.DBVersion = "15" })
	w.Make(one)
	w.Make(two)
	w.Ready(one)
	w.Ready(two)
	if one.Status.Server.ID == two.Status.Server.ID || one.Status.Server.Port == two.Status.Server.Port {
		t.Errorf("both are on server %s port %d", one.Status.Server.ID, one.Status.Server.Port)
	}
	for name, major := range map[string]string{"one": "17", "two": "15"} {
		if got, err := w.As(w.Secret(name), "SHOW server_version"); err != nil || !strings.HasPrefix(got, major) {
			t.Errorf("%s runs on %q: %v", name, got, err)
		}
	}
	if _, err := w.As(w.Secret("one"), "CREATE TABLE kept (x int); INSERT INTO kept VALUES (4)"); err != nil {
		t.Fatal(err)
	}
	w.Gone(one)
	w.Sweeper.Sweep(t.Context())
	again := w.Claim("one")
	w.Make(again)
	w.Ready(again)
	if got, err := w.As(w.Secret("one"), "SELECT x FROM kept"); err != nil || got != "4" {
		t.Errorf("came back with %q: %v", got, err)
	}
	if ids, err := servers.List(t.Context()); err != nil || len(ids) != 2 {
		t.Errorf("servers: %v, %v", ids, err)
	}
}

func TestDedicatedServerGoesWithItsDatabase(t *testing.T) {
	t.Parallel()
	w, servers, dir := dedicated(t, 0)
	c := w.Claim("gone")
	w.Make(c)
	w.Ready(c)
	w.Gone(c)
	w.Until("the server to be gone", func() (bool, string) {
		ids, err := servers.List(t.Context())
		return err == nil && len(ids) == 0, strings.Join(ids, " ")
	})
	if _, err := os.Stat(filepath.Join(dir, c.Status.Server.ID)); err == nil {
		t.Error("its folder stays")
	}
}
