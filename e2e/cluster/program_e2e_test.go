//go:build e2e

package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/e2e/cluster"
	"github.com/berth-dev/berth/process"
)

// node runs the program of make cluster.
func node(t *testing.T, args ...string) string {
	t.Helper()
	var said bytes.Buffer
	if err := process.Run(context.WithoutCancel(t.Context()), process.Spec{Path: filepath.Join(bin, "e2e", "node"), Args: args, Log: &said}); err != nil {
		t.Fatalf("node %s: %v; it said:\n%s", strings.Join(args, " "), err, said.String())
	}
	return said.String()
}

func TestUpAndDown(t *testing.T) {
	before := snapshot(t)
	dir := t.TempDir()
	t.Cleanup(func() { node(t, "down", "--data", dir) })
	if said := node(t, "up", "--data", dir); !strings.Contains(said, "ready\nthe cluster runs") {
		t.Fatalf("up said:\n%s", said)
	}
	first, _, err := cluster.Find(dir)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("a second up changes nothing", func(t *testing.T) {
		if said := node(t, "up", "--data", dir); !strings.HasPrefix(said, "the cluster runs") {
			t.Errorf("it said:\n%s", said)
		}
		if second, _, err := cluster.Find(dir); err != nil || second != first {
			t.Errorf("the record is now %v, %v", second, err)
		}
	})
	t.Run("another cluster has another network, and ends when a part of it does", func(t *testing.T) {
		beside := t.TempDir()
		k := start(t, beside)
		if k.cluster.Network() == first.Network {
			t.Errorf("both have network %s", first.Network)
		}
		if err := syscall.Kill(part(t, beside, "kube-scheduler"), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {
		case <-k.cluster.Done():
		case <-time.After(30 * time.Second):
			t.Fatal("it did not end")
		}
		if err := k.cluster.Err(); !strings.Contains(err.Error(), "kube-scheduler ended") {
			t.Error(err)
		}
		if err := k.cluster.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("a supervisor that is killed takes the node along, and up finds the state", func(t *testing.T) {
		mark := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mark"}}
		if err := access(t, dir).Create(t.Context(), mark); err != nil {
			t.Fatal(err)
		}
		_, supervisor, err := cluster.Find(dir)
		if err != nil {
			t.Fatal(err)
		}
		etcd := part(t, dir, "etcd")
		if err := supervisor.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end of etcd", func() error {
			if err := syscall.Kill(etcd, 0); !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("it is there: %w", errors.Join(err, os.ErrExist))
			}
			return nil
		})
		node(t, "up", "--data", dir)
		if err := access(t, dir).Get(t.Context(), client.ObjectKeyFromObject(mark), mark); err != nil {
			t.Error(err)
		}
	})
	t.Run("down leaves nothing", func(t *testing.T) {
		if said := node(t, "down", "--data", dir); said != "the cluster has ended\n" {
			t.Errorf("it said:\n%s", said)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("the folder holds %v, %v", left, err)
		}
		if said := node(t, "down", "--data", dir); said != cluster.ErrNotRunning.Error()+"\n" {
			t.Errorf("a second one said:\n%s", said)
		}
		before.compare(t, first.Network)
	})
}

func access(t *testing.T, dir string) client.Client {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	api, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// part finds a program of the node that has its state in dir, and of no other.
func part(t *testing.T, dir, name string) (pid int) {
	t.Helper()
	state, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range processes {
		seen, err := os.Stat(filepath.Join(process, "root/var/lib/node"))
		if err != nil || !os.SameFile(seen, state) {
			continue
		}
		program, err := os.Readlink(filepath.Join(process, "exe"))
		if err == nil && filepath.Base(program) == name {
			if pid, err = strconv.Atoi(filepath.Base(process)); err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("the node of %s runs no %s", dir, name)
	return 0
}
