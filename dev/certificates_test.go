package dev

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLeafIsKeptUntilItMustChange(t *testing.T) {
	t.Parallel()
	born := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		disturb func(t *testing.T, dir string)
		later   time.Duration
		kept    bool
	}{
		"a restart keeps it":                             {later: time.Minute, kept: true},
		"it is renewed before its end":                   {later: leafLifetime - renewBefore + time.Hour},
		"a damaged file is replaced":                     {disturb: overwrite("admin.pem")},
		"a lost file is replaced":                        {disturb: remove("admin.pem")},
		"a damaged authority replaces what it signed":    {disturb: overwrite("ca.pem")},
		"an authority near its end replaces what it had": {later: authorityLifetime - leafLifetime + time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "pki")
			before := admin(t, dir, born)
			if tc.disturb != nil {
				tc.disturb(t, dir)
			}
			now := born.Add(tc.later)
			after := admin(t, dir, now)
			if kept := after.cert.Equal(before.cert); kept != tc.kept {
				t.Errorf("kept = %v, want %v", kept, tc.kept)
			}
			if after.cert.NotAfter.Before(now.Add(renewBefore)) {
				t.Errorf("it ends at %s, too soon after %s", after.cert.NotAfter, now)
			}
		})
	}
}

func TestAuthorityFileForOthersHoldsNoKey(t *testing.T) {
	t.Parallel()
	a, err := openAuthority(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if p, err := loadPair(a.certFile()); err == nil {
		t.Errorf("%s holds the key of %s", a.certFile(), p.cert.Subject)
	}
}

func TestFolderIsTakenFromOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := openAuthority(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %s", info.Mode())
	}
}

// admin opens the folder as a start at now does, and checks what it gets
// against the authority of that start.
func admin(t *testing.T, dir string, now time.Time) pair {
	t.Helper()
	a, err := openAuthority(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	p, err := a.leaf("admin", clientTemplate("berth-admin", []string{"system:masters"}), now)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cert.CheckSignatureFrom(a.pair.cert); err != nil {
		t.Error(err)
	}
	return p
}

func overwrite(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}
