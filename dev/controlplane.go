// Package dev runs a Kubernetes API on one machine: a kube-apiserver and its
// etcd as child processes, for `berth dev` and for tests.
//
// It runs no controller-manager, scheduler or kubelet: nothing collects
// garbage, finishes the deletion of a namespace or runs a pod. It imports no
// kind, so that the tests of every kind can use it.
package dev

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
)

// Options say where a control plane lives.
type Options struct {
	Dir       string       // keeps all its state; used by one control plane at a time
	Bin       string       // folder with etcd and kube-apiserver
	Progress  func(string) // told each stage; may be nil
	Ephemeral bool         // for tests: no fsync, and killed instead of stopped
}

// ControlPlane is a running kube-apiserver with its etcd. It listens on
// loopback only, etcd on a socket in a private folder; both die with this
// process.
type ControlPlane struct {
	options   Options
	authority *authority
	admin     *rest.Config
	lock      *os.File
	etcd, api *child
	done      chan struct{}
}

// StartControlPlane starts both programs and returns once the API answers and
// the namespace default exists. ctx bounds the start alone; Stop ends them. The
// state in Dir, its address included, is found again by the next start. When a
// program cannot start, the error ends with the last lines of its log.
func StartControlPlane(ctx context.Context, o Options) (*ControlPlane, error) {
	c, err := open(o)
	if err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	go func() {
		defer close(c.done)
		select {
		case <-c.etcd.Done():
		case <-c.api.Done():
		}
	}()
	return c, nil
}

func open(o Options) (*ControlPlane, error) {
	var err error
	if o.Bin, err = filepath.Abs(o.Bin); err != nil {
		return nil, fmt.Errorf("resolving folder: %w", err)
	}
	for _, name := range []string{"etcd", "kube-apiserver"} {
		if _, err := os.Stat(filepath.Join(o.Bin, name)); err != nil {
			return nil, fmt.Errorf("finding %s (run: make tools): %w", name, err)
		}
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, fmt.Errorf("resolving folder: %w", err)
	}
	// Others may need to pass through it, such as the account of PostgreSQL.
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("making folder: %w", err)
	}
	for _, dir := range []string{"etcd", "logs"} {
		if err := privateFolder(filepath.Join(o.Dir, dir)); err != nil {
			return nil, err
		}
	}
	c := &ControlPlane{options: o, done: make(chan struct{})}
	if c.lock, err = lock(filepath.Join(o.Dir, "lock")); err != nil {
		return nil, err
	}
	if c.authority, err = openAuthority(filepath.Join(o.Dir, "pki"), time.Now()); err != nil {
		return nil, errors.Join(err, c.lock.Close())
	}
	return c, nil
}

func (c *ControlPlane) start(ctx context.Context) error {
	admin, err := c.authority.leaf("admin", clientTemplate("berth-admin", []string{"system:masters"}), time.Now())
	if err != nil {
		return err
	}
	if _, err := c.authority.leaf("server", serverTemplate(), time.Now()); err != nil {
		return err
	}
	c.options.Progress("starting etcd")
	if c.etcd, err = c.run("etcd", c.etcdArgs()); err != nil {
		return err
	}
	c.options.Progress("starting kube-apiserver")
	for {
		port, err := c.port()
		if err != nil {
			return err
		}
		if c.admin, err = c.config(admin, port); err != nil {
			return err
		}
		args, err := c.apiArgs(port)
		if err != nil {
			return err
		}
		if c.api, err = c.run("kube-apiserver", args); err != nil {
			return err
		}
		err = c.waitReady(ctx)
		// Another program may take the port between our look and the bind.
		if err == nil || !strings.Contains(err.Error(), "address already in use") {
			return err
		}
	}
}

// Both programs run in etcd's folder and name its socket without a path, since
// the kernel limits a socket's path to 107 bytes. The number only satisfies
// etcd's rule that each address has a port.
const (
	etcdSocket = "unix://client:1"
	peerSocket = "unix://peer:1"
)

func (c *ControlPlane) etcdArgs() []string {
	args := []string{
		"--name=berth",
		"--data-dir=data",
		"--listen-client-urls=" + etcdSocket,
		"--advertise-client-urls=" + etcdSocket,
		"--listen-peer-urls=" + peerSocket,
		"--initial-advertise-peer-urls=" + peerSocket,
		"--initial-cluster=berth=" + peerSocket,
		"--log-level=warn",
	}
	if c.options.Ephemeral {
		args = append(args, "--unsafe-no-fsync")
	}
	return args
}

func (c *ControlPlane) apiArgs(port string) ([]string, error) {
	signing, err := c.authority.signingKey("service-account")
	if err != nil {
		return nil, err
	}
	server := c.authority.file("server")
	return []string{
		"--etcd-servers=" + etcdSocket,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--secure-port=" + port,
		"--tls-cert-file=" + server,
		"--tls-private-key-file=" + server,
		"--client-ca-file=" + c.authority.certFile(),
		"--anonymous-auth=false",
		"--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + signing,
		"--service-account-signing-key-file=" + signing,
		"--service-cluster-ip-range=10.96.0.0/24",
		"--disable-admission-plugins=ServiceAccount", // it waits for accounts that a controller-manager makes
		"--endpoint-reconciler-type=none",            // loopback is no address for an endpoint
		"--allow-privileged",
		"--profiling=false",
	}, nil
}

// waitReady returns nil once the API serves the namespace default, which the
// server makes shortly after it calls itself ready.
func (c *ControlPlane) waitReady(ctx context.Context) error {
	client, err := rest.HTTPClientFor(c.admin)
	if err != nil {
		return fmt.Errorf("making client: %w", err)
	}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-c.etcd.Done():
			return c.etcd.failure()
		case <-c.api.Done():
			return c.api.failure()
		case <-ctx.Done():
			return fmt.Errorf("waiting for the API: %w", errors.Join(ctx.Err(), c.etcd.tail(), c.api.tail()))
		case <-tick.C:
		}
		if answers(ctx, client, c.admin.Host+"/readyz") && answers(ctx, client, c.admin.Host+"/api/v1/namespaces/default") {
			return nil
		}
	}
}

func answers(ctx context.Context, client *http.Client, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// Done is closed when either program has ended: before Stop, a failure that Err
// explains.
func (c *ControlPlane) Done() <-chan struct{} { return c.done }

// Err says which program ended and how; it is valid once Done is closed.
func (c *ControlPlane) Err() error {
	for _, p := range []*child{c.etcd, c.api} {
		select {
		case <-p.Done():
			return p.failure()
		default:
		}
	}
	return nil
}

// Stop ends both programs, the API server first, and returns once they are
// gone. What the API acknowledged is on disk, unless Ephemeral was set.
func (c *ControlPlane) Stop() error {
	grace := 15 * time.Second
	if c.options.Ephemeral {
		grace = 0
	}
	var failures []error
	for _, p := range []*child{c.api, c.etcd} {
		if p != nil {
			failures = append(failures, p.Stop(grace))
		}
	}
	if err := c.lock.Close(); !errors.Is(err, os.ErrClosed) {
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// lock keeps a second control plane out of the folder. The kernel releases it
// when this process ends, however it ends.
func lock(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s, which another control plane may use: %w", file, err), f.Close())
	}
	return f, nil
}
