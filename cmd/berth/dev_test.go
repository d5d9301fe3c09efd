package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/process"
)

// output is what a program has said so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// run starts berth with args.
func run(t *testing.T, args ...string) (*process.Process, *output) {
	t.Helper()
	out := &output{}
	p, err := process.Start(process.Spec{Path: testkit.Program(t), Args: args, Log: out})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(0) })
	return p, out
}

// eventually waits for holds, which says what it saw last.
func eventually(t *testing.T, what string, holds func() (bool, string)) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	for {
		ok, last := holds()
		if ok {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waiting for %s: %s", what, last)
		case <-tick.C:
		}
	}
}

// startDev runs `berth dev` on data and returns once it says it is ready.
func startDev(t *testing.T, data string) (*process.Process, *output, client.Client) {
	t.Helper()
	p, out := run(t, "dev", "--data", data, "--bin", testkit.Bin(t, ""), "--api-address", "0", "--metrics-address", "0")
	eventually(t, "berth dev to be ready", func() (bool, string) {
		select {
		case <-p.Done():
			t.Fatalf("berth dev ended: %s", out)
		default:
		}
		return strings.Contains(out.String(), "berth dev is ready\n"), out.String()
	})
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(data, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	api, err := newClient(config)
	if err != nil {
		t.Fatal(err)
	}
	return p, out, api
}

func uriOf(t *testing.T, api client.Client, name string) (uri string) {
	t.Helper()
	eventually(t, "the Secret "+name, func() (bool, string) {
		secret := &corev1.Secret{}
		if err := api.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, secret); err != nil {
			return false, err.Error()
		}
		uri = string(secret.Data["uri_dsn.txt"])
		return true, ""
	})
	return uri
}

// expectReportingProxy waits until a pod's proxy would report to the switchboard.
func expectReportingProxy(t *testing.T, api client.Client, claim string) {
	t.Helper()
	eventually(t, "a proxy that knows the switchboard", func() (bool, string) {
		pod := &corev1.Pod{}
		pod.Namespace, pod.GenerateName = "default", "reports-"
		pod.Labels = map[string]string{"berth.dev/claim": claim, "berth.dev/dbproxy": "enabled"}
		pod.Spec.ServiceAccountName, pod.Spec.Containers = "default", []corev1.Container{{Name: "app", Image: "app:1"}}
		if err := api.Create(t.Context(), pod, client.DryRunAll); err != nil {
			return false, err.Error()
		}
		known := map[string]string{}
		for _, e := range pod.Spec.InitContainers[0].Env {
			known[e.Name] = e.Value
		}
		return strings.HasPrefix(known["BERTH_SWITCHBOARD"], "127.0.0.1:") && strings.HasPrefix(known["BERTH_SWITCHBOARD_CA"], "-----BEGIN CERTIFICATE") &&
			known["BERTH_CLAIM"] == claim, known["BERTH_SWITCHBOARD"]
	})
}

// leftovers are the programs that still use a folder.
func leftovers(data string) (names []string) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range lines {
		line, err := os.ReadFile(file)
		if err == nil && bytes.Contains(line, []byte(data)) {
			names = append(names, filepath.Base(string(bytes.SplitN(line, []byte{0}, 2)[0])))
		}
	}
	return names
}

func TestDevFindsEverythingAgain(t *testing.T) {
	t.Parallel()
	data := filepath.Join(testkit.OpenDir(t), "dev")
	p, out, api := startDev(t, data)
	claim := &v1alpha1.DatabaseClaim{}
	claim.Namespace, claim.Name = "default", "kept"
	if err := api.Create(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	uri := uriOf(t, api, "kept")
	expectReportingProxy(t, api, "kept")
	if err := loginOnce(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(data, "kubeconfig")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("kubeconfig: %v, %v", info.Mode(), err)
	}
	if err := syscall.Kill(p.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if p.Err() != nil {
		t.Errorf("it ended with %v: %s", p.Err(), out)
	}
	if names := leftovers(data); len(names) > 0 {
		t.Errorf("after SIGTERM these run on: %v", names)
	}
	for how, end := range map[string]func(*process.Process){
		"stopped":              func(p *process.Process) { _ = p.Stop(time.Minute) },
		"killed without mercy": func(p *process.Process) { _ = p.Stop(0) },
	} {
		p, _, api := startDev(t, data)
		if again := uriOf(t, api, "kept"); again != uri {
			t.Errorf("before it was %s: the Secret changed", how)
		}
		eventually(t, "a login after a restart", func() (bool, string) {
			err := loginOnce(context.WithoutCancel(t.Context()), uri)
			return err == nil, "no login yet"
		})
		end(p)
		eventually(t, "its programs to end when it is "+how, func() (bool, string) {
			names := leftovers(data)
			return len(names) == 0, strings.Join(names, " ")
		})
	}
}

func TestDemoHoldsEveryStep(t *testing.T) {
	t.Parallel()
	p, out := run(t, "demo", "--bin", testkit.Bin(t, ""))
	<-p.Done()
	if p.Err() != nil || !strings.Contains(out.String(), " 0 failed\n") || !strings.Contains(out.String(), "Every step held.") {
		t.Fatalf("%v: %s", p.Err(), out)
	}
}
