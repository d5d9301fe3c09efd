//go:build e2e

package cluster_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/e2e/cluster"
	"github.com/berth-dev/berth/process"
)

// machine is what a node could leave traces in.
type machine map[string][]string

func snapshot(t *testing.T) machine {
	t.Helper()
	m := machine{}
	for name, command := range map[string][]string{
		"links":     {"ip", "-o", "link"},
		"addresses": {"ip", "-o", "address"},
		"routes":    {"ip", "route", "show", "table", "all"},
		"spaces":    {"ip", "netns"},
		"firewall":  {"nft", "list", "ruleset"},
	} {
		var said bytes.Buffer
		if err := process.Run(t.Context(), process.Spec{Path: command[0], Args: command[1:], Log: &said}); err != nil {
			t.Fatalf("%s: %v: %s", command, err, said.String())
		}
		m[name] = strings.Split(said.String(), "\n")
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	m["mounts"] = strings.Split(string(mounts), "\n")
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			m["cgroups"] = append(m["cgroups"], path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"/run", "/var/run", "/var/lib", "/var/log"} {
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			m["folders"] = append(m["folders"], filepath.Join(folder, entry.Name()))
		}
	}
	for _, setting := range []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
		"kernel/keys/root_maxbytes", "net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables", "net/netfilter/nf_conntrack_max",
	} {
		if value, err := os.ReadFile("/proc/sys/" + setting); err == nil {
			m["settings"] = append(m["settings"], setting+" = "+string(value))
		}
	}
	return m
}

var ofCluster = regexp.MustCompile(`\bberth\d+\b`)

// compare looks for traces of the cluster with this network. Others may come and
// go meanwhile, and what one that was killed had left before may be gone.
func (m machine) compare(t *testing.T, network cluster.Network) {
	t.Helper()
	before := m.without(func(name string) bool { return name != "" })
	after := snapshot(t).without(func(name string) bool { return name != "" && name != network.Name() })
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("before (-) and after (+):\n%s", diff)
	}
}

// without leaves out the lines that name a cluster of which other reports true.
func (m machine) without(other func(name string) bool) machine {
	rest := machine{}
	for kind, lines := range m {
		rest[kind] = slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return other(ofCluster.FindString(line)) })
	}
	return rest
}
