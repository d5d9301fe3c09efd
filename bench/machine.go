package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-dev/berth/process"
)

// major is the PostgreSQL that is measured with.
const major = "15"

// machine is what the figures were measured on.
type machine struct {
	cpu, memory, system, postgres, kubernetes, etcd string
	sync                                            time.Duration
	date                                            time.Time
}

// String is a list in Markdown.
func (m machine) String() string {
	return fmt.Sprintf("- %s, %d cores, %s of memory; a synced write of 8 kB takes %.2f ms (median of %d)\n- %s; %s\n- %s\n- Kubernetes: %s; %s, with fsync\n- %s\n",
		m.cpu, runtime.NumCPU(), m.memory, float64(m.sync)/float64(time.Millisecond), syncedWrites,
		m.system, runtime.Version(), m.postgres, m.kubernetes, m.etcd, m.date.UTC().Format("2006-01-02 15:04 UTC"))
}

func readMachine(ctx context.Context, b *bench) (machine, error) {
	m := machine{date: time.Now(), cpu: field("/proc/cpuinfo", "model name"), memory: memory(field("/proc/meminfo", "MemTotal"))}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, fmt.Errorf("reading the kernel's name: %w", err)
	}
	m.system = strings.Trim(field("/etc/os-release", "PRETTY_NAME"), `"`) + ", Linux " + unix.ByteSliceToString(name.Release[:])
	var err error
	if m.postgres, err = version(ctx, filepath.Join(b.root, "bin", "pg", major, "bin", "postgres")); err != nil {
		return m, err
	}
	if m.kubernetes, err = version(ctx, filepath.Join(b.root, "bin", "k8s", "kube-apiserver")); err != nil {
		return m, err
	}
	if m.etcd, err = version(ctx, filepath.Join(b.root, "bin", "k8s", "etcd")); err != nil {
		return m, err
	}
	m.sync, err = syncedWrite(b.dir)
	return m, err
}

// field is the value of the first line "name: value" or "name=value" of file.
func field(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, name); found {
			return strings.TrimSpace(strings.TrimLeft(rest, " \t:="))
		}
	}
	return "unknown"
}

func memory(kB string) string {
	var n float64
	if _, err := fmt.Sscanf(kB, "%f kB", &n); err != nil {
		return kB
	}
	return fmt.Sprintf("%.1f GB", n*1024/1e9)
}

func version(ctx context.Context, program string) (string, error) {
	var out strings.Builder
	if err := process.Run(ctx, process.Spec{Path: program, Args: []string{"--version"}, Log: &out}); err != nil {
		return "", fmt.Errorf("asking %s for its version (run: make tools): %w", program, err)
	}
	first, _, _ := strings.Cut(out.String(), "\n")
	return strings.ReplaceAll(strings.TrimSpace(first), "Kubernetes ", "kube-apiserver "), nil
}

func lookGo() (string, error) {
	path, err := exec.LookPath("go")
	if err != nil {
		return "", fmt.Errorf("finding the Go compiler: %w", err)
	}
	return path, nil
}

const syncedWrites = 50

// syncedWrite is what a small write to the disk of dir takes: databases and
// etcd wait for little else.
func syncedWrite(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "berth-bench-sync-")
	if err != nil {
		return 0, fmt.Errorf("making a file to sync: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	defer f.Close()
	var took []float64
	for range syncedWrites {
		began := time.Now()
		if _, err := f.Write(make([]byte, 8192)); err != nil {
			return 0, fmt.Errorf("writing: %w", err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, fmt.Errorf("syncing: %w", err)
		}
		took = append(took, float64(time.Since(began)))
	}
	return time.Duration(median(took)), nil
}
