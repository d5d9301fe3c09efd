package claim_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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

func TestClassDefaultsAreNeverIgnored(t *testing.T) {
	t.Parallel()
	w, _, _ := dedicated(t, time.Hour)
	w.Change(w.Class, func() { w.Class.Spec.Shape, w.Class.Spec.MinStorageGB = "db.large", 20 })
	w.Expect(w.Class, v1alpha1.ServerReachable, metav1.ConditionFalse, "NotSupported")
	c := w.Claim("sized", func(s *spec) { s.Shape = "db.small" })
	w.Make(c)
	got := w.Expect(c, v1alpha1.Admitted, metav1.ConditionFalse, "NotAllowed")
	for _, want := range []string{"sets spec.shape", "sets spec.minStorageGB"} {
		if !strings.Contains(got.Message, want) {
			t.Errorf("no word of %q in: %s", want, got.Message)
		}
	}
}

func TestWishesOfAClaimGoBeforeThoseOfItsClass(t *testing.T) {
	t.Parallel()
	class := &v1alpha1.DatabaseClass{Spec: v1alpha1.DatabaseClassSpec{Shape: "large", MinStorageGB: 20}}
	for name, tc := range map[string]struct {
		spec spec
		want backend.Wishes
	}{
		"a claim that asks for nothing has the class's": {spec{}, backend.Wishes{Shape: "large", MinStorageGB: 20}},
		"a claim that asks has its own":                 {spec{Shape: "small", MinStorageGB: 5}, backend.Wishes{Shape: "small", MinStorageGB: 5}},
		"each by itself":                                {spec{Shape: "small"}, backend.Wishes{Shape: "small", MinStorageGB: 20}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, backend.WishesOf(&v1alpha1.DatabaseClaim{Spec: tc.spec}, class)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
