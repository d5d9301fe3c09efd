package dev_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/dev"
)

const bin = "../bin/k8s"

// holdDir makes the test binary a program that holds a control plane until it
// is killed.
const holdDir = "BERTH_TEST_HOLD_CONTROL_PLANE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdDir); dir != "" {
		if _, err := dev.StartControlPlane(context.Background(), dev.Options{Dir: dir, Bin: bin, Ephemeral: true}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		select {}
	}
	os.Exit(m.Run())
}

func start(t *testing.T, o dev.Options) *dev.ControlPlane {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	o.Bin = bin
	c, err := dev.StartControlPlane(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func connect(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

func TestRestartKeepsObjectsAddressAndAccess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var stages []string
	first := start(t, dev.Options{Dir: dir, Progress: func(stage string) { stages = append(stages, stage) }})
	if diff := cmp.Diff([]string{"starting etcd", "starting kube-apiserver"}, stages); diff != "" {
		t.Error(diff)
	}
	if err := connect(t, first.Config()).Create(t.Context(), configMap("kept")); err != nil {
		t.Fatal(err)
	}
	before, err := first.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	<-first.Done()

	second := start(t, dev.Options{Dir: dir})
	after, err := second.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("the kubeconfig changed over a restart")
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(before)
	if err != nil {
		t.Fatal(err)
	}
	if err := connect(t, config).Get(t.Context(), client.ObjectKeyFromObject(configMap("kept")), configMap("")); err != nil {
		t.Fatal(err)
	}
}

func TestNobodyElseCanReadAnything(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := start(t, dev.Options{Dir: dir, Ephemeral: true})
	if err := c.WriteKubeconfig(filepath.Join(dir, "kubeconfig")); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		files++
		if entry.IsDir() && entry.Name() != "pki" {
			return fs.SkipDir // its mode guards what is inside
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 8 {
		t.Errorf("only %d files seen", files)
	}
}

func TestTakenPortIsReplaced(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, err := net.SplitHostPort(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "port"), []byte(port), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, dev.Options{Dir: dir, Ephemeral: true})
	address, err := url.Parse(c.Config().Host)
	if err != nil {
		t.Fatal(err)
	}
	if address.Port() == port {
		t.Fatalf("the API is at the taken port %s", port)
	}
}

func TestUserMayDoOnlyWhatRBACGrants(t *testing.T) {
	t.Parallel()
	c := start(t, dev.Options{Dir: t.TempDir(), Ephemeral: true})
	config, err := c.User("alice", "readers")
	if err != nil {
		t.Fatal(err)
	}
	alice := connect(t, config)
	if err := alice.List(t.Context(), &corev1.ConfigMapList{}); !apierrors.IsForbidden(err) {
		t.Errorf("listing without a grant: %v", err)
	}
	config, err = c.User("bob", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	if err := connect(t, config).List(t.Context(), &corev1.ConfigMapList{}); err != nil {
		t.Errorf("listing with a granted group: %v", err)
	}
	config.CertData, config.KeyData = nil, nil
	if err := connect(t, config).List(t.Context(), &corev1.ConfigMapList{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("listing without a certificate: %v", err)
	}
}

func TestFolderMayBeLongerThanASocketPath(t *testing.T) {
	t.Parallel()
	start(t, dev.Options{Dir: filepath.Join(t.TempDir(), strings.Repeat("deep/", 30)), Ephemeral: true})
}

func TestFolderServesOneControlPlane(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := start(t, dev.Options{Dir: dir, Ephemeral: true})
	_, err := dev.StartControlPlane(t.Context(), dev.Options{Dir: dir, Bin: bin})
	if err == nil || !strings.Contains(err.Error(), "another control plane") {
		t.Errorf("starting a second one: %v", err)
	}
	if err := connect(t, c.Config()).List(t.Context(), &corev1.NamespaceList{}); err != nil {
		t.Errorf("the first one: %v", err)
	}
}

func TestFailedStartEndsWithTheLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pki", "service-account.key"), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := dev.StartControlPlane(t.Context(), dev.Options{Dir: dir, Bin: bin, Ephemeral: true})
	if err == nil {
		t.Fatal("it started")
	}
	lines := strings.Split(err.Error(), "\n")
	if !strings.Contains(lines[0], "kube-apiserver ended") || !strings.Contains(lines[len(lines)-1], "service-account.key") {
		t.Errorf("err = %v", err)
	}
	if left := processesUnder(t, dir); len(left) > 0 {
		t.Errorf("still running: %v", left)
	}
}

func TestMissingProgramNamesItsCommand(t *testing.T) {
	t.Parallel()
	_, err := dev.StartControlPlane(t.Context(), dev.Options{Dir: t.TempDir(), Bin: t.TempDir()})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "make tools") {
		t.Fatalf("err = %v", err)
	}
}

func TestDoneTellsOfALostProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := start(t, dev.Options{Dir: dir, Ephemeral: true})
	for _, pid := range processesUnder(t, dir) {
		process, err := os.FindProcess(pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	<-c.Done()
	if err := c.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("Err = %v", err)
	}
}

func TestKilledParentLeavesNoChildAndNoLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), holdDir+"="+dir)
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the holder says %q: %v", line, err)
	}
	if running := processesUnder(t, dir); len(running) != 2 {
		t.Fatalf("running before the kill: %v", running)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := holder.Wait(); err == nil {
		t.Fatal("the holder ended well")
	}
	eventually(t, func() bool { return len(processesUnder(t, dir)) == 0 })
	start(t, dev.Options{Dir: dir, Ephemeral: true})
}

func TestInstalledKindIsServedAtOnce(t *testing.T) {
	t.Parallel()
	c := start(t, dev.Options{Dir: t.TempDir(), Ephemeral: true})
	files := fstest.MapFS{
		"b.yaml":    {Data: []byte(boatDefinition)},
		"a.yaml":    {Data: []byte("# an object of the kind, in an earlier file\n---\n" + boat)},
		"README.md": {Data: []byte("not yaml: [")},
	}
	for range 2 {
		if err := dev.InstallCRDs(t.Context(), c.Config(), files); err != nil {
			t.Fatal(err)
		}
	}
	found := &unstructured.Unstructured{}
	found.SetGroupVersionKind(schema.GroupVersionKind{Group: "test.berth.dev", Version: "v1", Kind: "Boat"})
	if err := connect(t, c.Config()).Get(t.Context(), client.ObjectKey{Name: "dinghy"}, found); err != nil {
		t.Fatal(err)
	}
}

func TestInstallNamesTheObjectItCannotApply(t *testing.T) {
	t.Parallel()
	c := start(t, dev.Options{Dir: t.TempDir(), Ephemeral: true})
	for name, tc := range map[string]struct{ yaml, want string }{
		"a kind nobody serves":  {yaml: boat, want: "applying Boat dinghy"},
		"an invalid definition": {yaml: strings.Replace(boatDefinition, "name: boats.", "name: ships.", 1), want: "applying CustomResourceDefinition ships.test.berth.dev"},
		"no YAML":               {yaml: "a: [", want: "parsing x.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := dev.InstallCRDs(t.Context(), c.Config(), fstest.MapFS{"x.yaml": {Data: []byte(tc.yaml)}})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("err = %v, want %q in it", err, tc.want)
			}
		})
	}
}

const boat = "apiVersion: test.berth.dev/v1\nkind: Boat\nmetadata: {name: dinghy}\n"

const boatDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.test.berth.dev}
spec:
  group: test.berth.dev
  scope: Cluster
  names: {kind: Boat, listKind: BoatList, plural: boats, singular: boat}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}
  - {name: v2, served: false, storage: false, schema: {openAPIV3Schema: {type: object}}}
`

// processesUnder lists the processes that work in dir.
func processesUnder(t *testing.T, dir string) []int {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, entry := range entries {
		cwd, err := os.Readlink(entry)
		if err != nil || !strings.HasPrefix(cwd, dir) {
			continue // gone by now, or another's
		}
		var pid int
		if _, err := fmt.Sscanf(entry, "/proc/%d/cwd", &pid); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatal("it did not come to hold within 10 s")
		case <-tick.C:
		}
	}
}
