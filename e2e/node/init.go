package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-dev/berth/process"
)

// Inside the node its state and its programs are always at these places.
const (
	home = "/var/lib/node"
	bin  = "/run/bin"
)

type initCmd struct {
	Data    string `required:""`
	Bin     string `required:""`
	Network int    `required:""`
}

// Run is process 1 of the node. It lays the node's files over the machine's,
// starts serve, and takes in the processes whose parents have ended.
func (c *initCmd) Run(context.Context) error {
	// SIGCHLD is caught before there is a child.
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	if err := c.mount(); err != nil {
		return err
	}
	serve, err := process.Start(process.Spec{
		Path: "/proc/self/exe",
		Args: []string{"serve", "--network", strconv.Itoa(c.Network)},
		Env:  []string{"PATH=" + bin + "/k8s:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
		Dir:  "/",
		Log:  os.Stdout,
	})
	if err != nil {
		return err
	}
	for {
		select {
		case <-serve.Done():
			os.Exit(1) // it has said why
		case <-ended:
			// This may also collect serve, whose Done is closed all the same.
			for pid := 1; pid > 0; {
				pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			}
		}
	}
}

func (c *initCmd) mount() error {
	// Both are held open first: the mounts below may cover them.
	places := map[string]*os.File{}
	for place, folder := range map[string]string{home: c.Data, bin: c.Bin} {
		file, err := os.Open(folder)
		if err != nil {
			return fmt.Errorf("opening folder: %w", err)
		}
		defer file.Close()
		places[place] = file
	}
	for _, folder := range []string{"/run", "/var/lib", "/var/log"} {
		if err := unix.Mount("tmpfs", folder, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mounting %s: %w", folder, err)
		}
	}
	for place, folder := range places {
		if err := os.MkdirAll(place, 0o755); err != nil {
			return fmt.Errorf("making folder: %w", err)
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", folder.Fd()), place, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", place, err)
		}
	}
	return coverSettings()
}

// coverSettings lays files over the settings of the whole machine that kubelet
// would change. They hold what it wants to see.
func coverSettings() error {
	const folder = "/run/settings"
	if err := os.Mkdir(folder, 0o755); err != nil {
		return fmt.Errorf("making folder: %w", err)
	}
	for setting, value := range map[string]string{
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	} {
		real := filepath.Join("/proc/sys", setting)
		if _, err := os.Stat(real); errors.Is(err, os.ErrNotExist) {
			continue
		}
		cover := filepath.Join(folder, filepath.Base(setting))
		if err := os.WriteFile(cover, []byte(value+"\n"), 0o644); err != nil {
			return fmt.Errorf("writing setting: %w", err)
		}
		if err := unix.Mount(cover, real, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("covering %s: %w", real, err)
		}
	}
	return nil
}
