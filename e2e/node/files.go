package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/berth-dev/berth/e2e/cluster"
	"github.com/berth-dev/berth/process"
)

//go:embed files
var templates embed.FS

const config = "/run/config"

func configFile(name string) string { return filepath.Join(config, name) }

// writeFiles fills in what the programs read.
func (n *node) writeFiles() error {
	values := struct {
		cluster.Addresses
		Name, Home, Bin, Config, PKI, PauseImage string
	}{n.Addresses, n.Name(), home, bin, config, n.authority.dir, pauseImage}
	err := fs.WalkDir(templates, "files", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		t, err := template.ParseFS(templates, name)
		if err != nil {
			return err
		}
		path := configFile(strings.TrimPrefix(name, "files/"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		return errors.Join(t.Execute(file, values), file.Close())
	})
	if err != nil {
		return fmt.Errorf("writing configuration: %w", err)
	}
	return nil
}

// setUpNetwork makes the bridge of the pods, which is also where the node and
// DNS have their addresses, and finishes the pair that leads to the machine.
func (n *node) setUpNetwork(ctx context.Context) error {
	if err := until(ctx, func(context.Context) error {
		_, err := net.InterfaceByName(n.Name())
		return err
	}); err != nil {
		return fmt.Errorf("waiting for link %s: %w", n.Name(), err)
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", n.Link + "/30", "dev", n.Name()},
		{"link", "set", n.Name(), "up"},
		{"link", "add", "pods", "type", "bridge"},
		{"address", "add", n.Node + "/24", "dev", "pods"},
		{"address", "add", n.DNS + "/32", "dev", "pods"},
		{"link", "set", "pods", "up"},
		// Routing comes before kube-proxy's translation of the node's own traffic.
		{"route", "add", n.Services, "dev", "pods", "src", n.Node},
	} {
		var said strings.Builder
		if err := process.Run(ctx, process.Spec{Path: "ip", Args: args, Log: &said}); err != nil {
			return fmt.Errorf("running ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
		}
	}
	for _, setting := range []string{"ipv4/ip_forward", "bridge/bridge-nf-call-iptables"} {
		if err := os.WriteFile("/proc/sys/net/"+setting, []byte("1"), 0); err != nil {
			return fmt.Errorf("setting %s (a bridge needs: modprobe br_netfilter): %w", setting, err)
		}
	}
	return nil
}
