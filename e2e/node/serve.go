package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berth-dev/berth/e2e/cluster"
	"github.com/berth-dev/berth/e2e/image"
	"github.com/berth-dev/berth/process"
)

type serveCmd struct {
	Network int `required:""`
}

// node is what runs inside the namespaces.
type node struct {
	cluster.Network
	cluster.Addresses
	authority *authority
	admin     *rest.Config
	fail      context.CancelCauseFunc
}

const pauseImage = "local/pause:1"

// Run brings the node up and keeps it until one of its parts ends.
func (c *serveCmd) Run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	network := cluster.Network(c.Network)
	n := &node{Network: network, Addresses: network.Addresses(), fail: fail}
	err := n.start(ctx)
	if err == nil {
		<-ctx.Done()
	}
	// What ended the node explains the error of whoever waited at that time.
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (n *node) start(ctx context.Context) error {
	began := time.Now()
	for _, stage := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"making network and certificates", n.prepare},
		{"starting etcd, containerd and kube-apiserver", n.startControlPlane},
		{"importing the pause image", n.importPause},
		{"waiting for the API", n.awaitAPI},
		{"starting controllers, scheduler, kubelet, kube-proxy and DNS", n.startNode},
		{"waiting until pods can run", func(ctx context.Context) error { return n.awaitPods(ctx, began) }},
	} {
		fmt.Println(stage.name)
		if err := stage.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", stage.name, err)
		}
	}
	return n.authority.kubeconfig(filepath.Join(home, "kubeconfig"), "berth-admin", "system:masters")
}

func (n *node) prepare(ctx context.Context) error {
	for _, folder := range []string{"etcd", "logs", "kubelet", "containerd", "volumes"} {
		if err := os.MkdirAll(filepath.Join(home, folder), 0o700); err != nil {
			return fmt.Errorf("making folder: %w", err)
		}
	}
	if err := n.setUpNetwork(ctx); err != nil {
		return err
	}
	if err := n.writeAccess(); err != nil {
		return err
	}
	return n.writeFiles()
}

// writeAccess writes what each program proves itself with.
func (n *node) writeAccess() error {
	var err error
	if n.authority, err = openAuthority(filepath.Join(home, "pki"), "https://"+n.Node+":6443"); err != nil {
		return err
	}
	for name, user := range map[string][]string{
		"admin":      {"berth-admin", "system:masters"},
		"controller": {"system:kube-controller-manager"},
		"scheduler":  {"system:kube-scheduler"},
		"proxy":      {"system:kube-proxy"},
		"kubelet":    {"system:node:node", "system:nodes"},
		"dns":        {"system:coredns"},
	} {
		if err := n.authority.kubeconfig(n.authority.file(name+".kubeconfig"), user[0], user[1:]...); err != nil {
			return err
		}
	}
	if n.admin, err = clientcmd.BuildConfigFromFlags("", n.authority.file("admin.kubeconfig")); err != nil {
		return fmt.Errorf("reading access: %w", err)
	}
	n.admin.QPS = -1
	return n.authority.serverFiles(n.Addresses)
}

// importPause builds the image that holds each pod's namespaces.
func (n *node) importPause(ctx context.Context) error {
	files := image.NewTree()
	if err := files.Add("/pause", filepath.Join(bin, "e2e", "pause")); err != nil {
		return err
	}
	archive := filepath.Join(home, "pause.tar")
	if err := image.Write(archive, pauseImage, image.Image{
		Architecture: runtime.GOARCH, Files: files, Entrypoint: []string{"/pause"}, User: "65535:65535",
	}); err != nil {
		return err
	}
	return until(ctx, func(ctx context.Context) error { return cluster.Import(ctx, home, archive) })
}

// run starts a program that the node cannot be without.
func (n *node) run(name string, args ...string) error {
	path := filepath.Join(home, "logs", name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("opening log of %s: %w", name, err)
	}
	defer log.Close()
	p, err := process.Start(process.Spec{
		Path: filepath.Join(bin, "k8s", name), Args: args, Dir: filepath.Join(home, "etcd"), Log: log,
	})
	if err != nil {
		return err
	}
	go func() {
		<-p.Done()
		n.fail(fmt.Errorf("%s ended: %w; its log ends: %s", name, p.Err(), tail(path)))
	}()
	return nil
}

func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}

// until repeats what may fail at first, and returns its last error when ctx
// ends. It tells what takes long.
func until(ctx context.Context, try func(context.Context) error) error {
	tick, long := time.NewTicker(50*time.Millisecond), time.NewTicker(10*time.Second)
	defer tick.Stop()
	defer long.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-long.C:
			fmt.Println("still waiting:", err)
		case <-tick.C:
		}
	}
}
