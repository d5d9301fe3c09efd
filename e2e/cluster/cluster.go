// Package cluster runs a real one-node Kubernetes on this machine, for tests.
//
// It makes the namespaces, the veth pair and the cgroups that a node lives in,
// and takes them away; e2e/node is the program that runs inside. It installs
// nothing and uses no network but its own. docs/cluster.md is its contract.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berth-dev/berth/process"
)

// Options say where a cluster lives.
type Options struct {
	Dir      string       // keeps all its state; used by one cluster at a time
	Bin      string       // folder with k8s/ and e2e/, as `make node-tools` fills it
	Progress func(string) // told each stage, from any goroutine; may be nil
}

var programs = []string{
	"e2e/node", "e2e/pause", "k8s/cni/bridge", "k8s/containerd", "k8s/coredns", "k8s/etcd", "k8s/ip", "k8s/kube-apiserver",
	"k8s/kube-controller-manager", "k8s/kube-proxy", "k8s/kube-scheduler", "k8s/kubelet", "k8s/nft", "k8s/runc",
}

// endTimeout bounds the removal of a node that was killed.
const endTimeout = 30 * time.Second

// Cluster is a running node. It ends with this process, however that ends.
type Cluster struct {
	options Options
	network Network
	lock    *os.File
	claim   io.Closer // of the network
	node    *process.Process
	output  *output
	admin   *rest.Config
}

// Start returns once pods can run: the node is Ready, the default ServiceAccount
// exists and DNS answers. ctx bounds the start alone. State in Dir is found
// again, as a node finds its own after a power cut. Start needs root.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	c, kept, err := open(o)
	if err != nil {
		return nil, err
	}
	candidates := networks()
	if kept.Network != 0 {
		candidates = []Network{kept.Network}
	}
	err = errors.New("finding a free network: every 10.N is in use")
	for _, c.network = range candidates {
		if err = c.start(ctx); err == nil {
			return c, nil
		}
		err = errors.Join(err, c.end())
		if !errors.Is(err, errTaken) {
			break
		}
	}
	return nil, errors.Join(err, c.lock.Close())
}

func open(o Options) (*Cluster, Record, error) {
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	for _, folder := range []*string{&o.Dir, &o.Bin} {
		absolute, err := filepath.Abs(*folder)
		if err != nil {
			return nil, Record{}, fmt.Errorf("resolving folder: %w", err)
		}
		*folder = absolute
	}
	for _, program := range programs {
		if _, err := os.Stat(filepath.Join(o.Bin, program)); err != nil {
			return nil, Record{}, fmt.Errorf("finding %s (run: make node-tools): %w", program, err)
		}
	}
	if os.Geteuid() != 0 {
		return nil, Record{}, errors.New("starting a node: it needs root (run: sudo make cluster)")
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, Record{}, fmt.Errorf("making folder: %w", err)
	}
	lock, err := lock(o.Dir)
	if err != nil {
		return nil, Record{}, err
	}
	kept, err := readRecord(o.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, Record{}, errors.Join(err, lock.Close())
	}
	return &Cluster{options: o, lock: lock}, kept, nil
}

// Done is closed when the node has ended: before Stop, a failure that Err explains.
func (c *Cluster) Done() <-chan struct{} { return c.node.Done() }

// Err says why the node ended; it is valid once Done is closed.
func (c *Cluster) Err() error { return fmt.Errorf("the node ended: %s", c.output.end()) }

// Config returns an administrator's access, without a client-side rate limit.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.admin) }

// Kubeconfig is the file with an administrator's access; only root can read it.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.options.Dir, "kubeconfig") }

// Network tells the cluster's addresses.
func (c *Cluster) Network() Network { return c.network }

// Import puts the images of a docker or OCI archive on the node. It may be
// repeated.
func (c *Cluster) Import(ctx context.Context, archive string) error {
	return Import(ctx, c.options.Dir, archive)
}

// Import does the same for the cluster that runs in dir.
func Import(ctx context.Context, dir, archive string) error {
	archive, err := filepath.Abs(archive)
	if err != nil {
		return fmt.Errorf("resolving archive: %w", err)
	}
	var said strings.Builder
	err = process.Run(ctx, process.Spec{
		Path: "ctr",
		// Relative, since the kernel limits a socket's path to 107 bytes.
		Args: []string{"--address", "containerd.sock", "--namespace", "k8s.io", "images", "import", archive},
		Dir:  dir,
		Log:  &said,
	})
	if err != nil {
		return fmt.Errorf("importing %s: %w: %s", archive, err, strings.TrimSpace(said.String()))
	}
	return nil
}

// Stop ends the node at once, as a power cut does, and takes away what it had
// outside Dir. The state in Dir stays. It may be repeated.
func (c *Cluster) Stop() error {
	err := c.end()
	if closed := c.lock.Close(); !errors.Is(closed, os.ErrClosed) {
		err = errors.Join(err, closed)
	}
	return err
}

func (c *Cluster) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if c.claim == nil { // what has the network's name is another's
		return nil
	}
	var failures []error
	if c.node != nil {
		failures = append(failures, c.node.Stop(0))
	}
	failures = append(failures, c.network.sweep(ctx), c.claim.Close())
	c.claim = nil
	return errors.Join(failures...)
}

func readAccess(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", kubeconfig, err)
	}
	config.QPS = -1 // the server's own priority and fairness suffices
	return config, nil
}
