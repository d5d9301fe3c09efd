package cluster

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFillCgroup(t *testing.T) {
	t.Parallel()
	type files map[string]string
	for name, tc := range map[string]struct{ root, want files }{
		"with v1 a cpuset has what its parent has": {
			root: files{"cpuset.cpus": "0-1\n", "cpuset.mems": "0\n"},
			want: files{"cpuset.cpus": "0-1\n", "cpuset.mems": "0\n", "group/cpuset.cpus": "0-1\n", "group/cpuset.mems": "0\n"},
		},
		"with v1 other controllers need nothing": {root: files{"pids.max": "max\n"}, want: files{"pids.max": "max\n"}},
		"with v2 the root lets a missing controller through": {
			root: files{"cgroup.controllers": "memory pids\n", "cgroup.subtree_control": "memory\n"},
			want: files{"cgroup.controllers": "memory pids\n", "cgroup.subtree_control": "+pids"},
		},
		"with v2 a root that lets all through is left alone": {
			root: files{"cgroup.controllers": "pids\n", "cgroup.subtree_control": "memory pids\n"},
			want: files{"cgroup.controllers": "pids\n", "cgroup.subtree_control": "memory pids\n"},
		},
		"beside v1 the v2 hierarchy has no controllers": {
			root: files{"cgroup.controllers": "\n", "cgroup.subtree_control": "\n"},
			want: files{"cgroup.controllers": "\n", "cgroup.subtree_control": "\n"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			group := filepath.Join(root, "group")
			if err := os.Mkdir(group, 0o755); err != nil {
				t.Fatal(err)
			}
			for file, text := range tc.root {
				if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := fillCgroup(root, group); err != nil {
				t.Fatal(err)
			}
			got := files{}
			for _, pattern := range []string{"*.*", "group/*"} {
				found, err := filepath.Glob(filepath.Join(root, pattern))
				if err != nil {
					t.Fatal(err)
				}
				for _, path := range found {
					text, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					relative, err := filepath.Rel(root, path)
					if err != nil {
						t.Fatal(err)
					}
					got[relative] = string(text)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
