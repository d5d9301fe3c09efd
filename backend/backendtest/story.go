package backendtest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/backend"
)

func absent(t *testing.T, f Fixture) {
	found := f.observe(t, f.Missing)
	if found.Exists || found.Usable {
		t.Fatalf("a missing server was found: %+v", found)
	}
}

func usable(t *testing.T, f Fixture) {
	admin := f.apply(t, f.One)
	conn := connect(t, admin)
	exec(t, conn, `CREATE ROLE backendtest_role NOLOGIN`)
	exec(t, conn, `DROP ROLE backendtest_role`)
}

func twice(t *testing.T, f Fixture) {
	first := f.apply(t, f.One)
	conn := connect(t, first)
	exec(t, conn, `CREATE ROLE backendtest_kept NOLOGIN`)
	second := f.apply(t, f.One)
	if first.Address() != second.Address() || first.Password != second.Password {
		t.Fatalf("the second Apply made %s of %s", second, first)
	}
	if !hasRole(t, connect(t, second), "backendtest_kept") {
		t.Fatal("the second Apply gave an empty server")
	}
	exec(t, conn, `DROP ROLE backendtest_kept`)
}

func prompts(t *testing.T, f Fixture) {
	ctx := t.Context()
	for _, want := range []backend.Server{f.One, f.Missing} {
		within(t, "Observe before Apply", func() error { _, err := f.Backend.Observe(ctx, want); return err })
	}
	started := time.Now()
	if err := f.Backend.Apply(ctx, f.One); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took > time.Second {
		t.Fatalf("Apply took %s: it waited for the server", took)
	}
	f.until(t, "usable", func() bool {
		var found backend.Observed
		within(t, "Observe while it starts", func() (err error) { found, err = f.Backend.Observe(ctx, f.One); return err })
		return found.Usable
	})
	within(t, "Observe of a usable server", func() error { _, err := f.Backend.Observe(ctx, f.One); return err })
	within(t, "List", func() error { _, err := f.Backend.List(ctx); return err })
}

func deletion(t *testing.T, f Fixture) {
	if !f.Makes {
		f.survivesDelete(t)
		return
	}
	first := f.apply(t, f.One)
	for range 2 {
		if err := f.Backend.Delete(t.Context(), f.One.ID); err != nil {
			t.Fatal(err)
		}
	}
	f.until(t, "gone", func() bool { return !f.observe(t, f.One).Exists })
	if names := f.list(t); len(names) != 0 {
		t.Fatalf("List still names %v", names)
	}
	if err := f.Backend.Delete(t.Context(), f.One.ID); err != nil {
		t.Fatalf("deleting it once more: %v", err)
	}
	if again := f.apply(t, f.One); again.Password == first.Password {
		t.Fatal("a server made again has the password of the deleted one")
	}
}

// survivesDelete is for a server that somebody else runs.
func (f Fixture) survivesDelete(t *testing.T) {
	t.Helper()
	f.apply(t, f.One)
	if err := f.Backend.Delete(t.Context(), f.One.ID); err != nil {
		t.Fatal(err)
	}
	connect(t, f.apply(t, f.One))
}

func deleteAbsent(t *testing.T, f Fixture) {
	if err := f.Backend.Delete(t.Context(), f.Missing.ID); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, f Fixture) {
	if names := f.list(t); len(names) != 0 {
		t.Fatalf("List of a fresh backend names %v", names)
	}
	f.observe(t, f.Missing)
	f.apply(t, f.One)
	f.apply(t, f.Two)
	var want []string
	if f.Makes {
		want = []string{f.One.ID, f.Two.ID}
		slices.Sort(want)
	}
	got := f.list(t)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("List names %v, want %v", got, want)
	}
}

func watch(t *testing.T, f Fixture) {
	watched, ok := f.Backend.(backend.Watched)
	if !ok {
		f.apply(t, f.One)
		return
	}
	var mu sync.Mutex
	told := map[string]int{}
	watched.OnChange(func(id string) {
		mu.Lock()
		defer mu.Unlock()
		told[id]++
	})
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return told[f.One.ID]
	}
	f.apply(t, f.One)
	f.until(t, "told to be usable", func() bool { return count() > 0 })
	before := count()
	if err := f.Backend.Delete(t.Context(), f.One.ID); err != nil {
		t.Fatal(err)
	}
	f.until(t, "told to be gone", func() bool { return !f.observe(t, f.One).Exists && count() > before })
	mu.Lock()
	defer mu.Unlock()
	if told[f.Two.ID] > 0 {
		t.Fatal("a change of another server was told")
	}
}

func apart(t *testing.T, f Fixture) {
	one, two := connect(t, f.apply(t, f.One)), connect(t, f.apply(t, f.Two))
	exec(t, one, `CREATE DATABASE backendtest_apart`)
	var seen bool
	if err := two.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'backendtest_apart')`).Scan(&seen); err != nil {
		t.Fatal(err)
	}
	if seen {
		t.Fatal("both servers have the database of one")
	}
	exec(t, one, `DROP DATABASE backendtest_apart`)
}

func secrecy(t *testing.T, f Fixture) {
	admin := f.apply(t, f.One)
	if admin.Password == "" {
		t.Fatal("the administrator has no password")
	}
	found := f.observe(t, f.One)
	for _, form := range []string{"%v", "%+v", "%#v", "%s"} {
		for what, value := range map[string]any{"Observed": found, "*Observed": &found, "Admin": admin} {
			if strings.Contains(fmt.Sprintf(form, value), admin.Password) {
				t.Errorf("%s of %s shows the password", form, what)
			}
		}
	}
	if strings.Contains(found.Reason+found.Message, admin.Password) {
		t.Error("reason or message shows the password")
	}
}
