package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-dev/berth/agent/restore"
)

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		job  string
		code int
		err  error
	}{
		"of a repository that is not reachable": {"repository: {folder: DIR/none, passwordFile: DIR/password}", codeNoVerdict, nil},
		"of a folder without a repository":      {"repository: {folder: DIR, passwordFile: DIR/password}", codePermanent, nil},
		"of a job without a repository":         {"run: x", 0, restore.ErrJob},
		"of a job with an unknown field":        {"restore: x", 0, restore.ErrJob},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "job.yaml")
			job := strings.ReplaceAll(tc.job+"\ntarget: DIR/target\nprograms: /usr/lib/postgresql\n", "DIR", dir)
			if err := errors.Join(os.WriteFile(file, []byte(job), 0o600), os.WriteFile(filepath.Join(dir, "password"), []byte("x"), 0o600)); err != nil {
				t.Fatal(err)
			}
			code, err := carryOut(file)
			if code != tc.code || !errors.Is(err, tc.err) {
				t.Errorf("code %d, %v; want %d, %v", code, err, tc.code, tc.err)
			}
		})
	}
}
