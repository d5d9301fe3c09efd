package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/berth-dev/berth/e2e/cluster"
	"github.com/berth-dev/berth/process"
)

type place struct {
	Data string `help:"Folder with the cluster's state." default:".berth/cluster" type:"path"`
}

type upCmd struct {
	place
	Timeout time.Duration `help:"How long to wait for it." default:"3m"`
}

type runCmd struct{ place }

type statusCmd struct{ place }

type downCmd struct {
	place
	Keep bool `help:"Keep the state, for the next start."`
}

type importCmd struct {
	place
	Archives []string `arg:"" type:"existingfile"`
}

// Run starts a supervisor that outlives this command: setsid leaves it to the
// machine's init.
func (c *upCmd) Run(ctx context.Context) error {
	if record, _, err := cluster.Find(c.Data); err == nil {
		return describe(c.Data, record)
	} else if !errors.Is(err, cluster.ErrNotRunning) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if err := os.MkdirAll(c.Data, 0o755); err != nil {
		return fmt.Errorf("making folder: %w", err)
	}
	log, err := os.Create(filepath.Join(c.Data, "node.log"))
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding own program: %w", err)
	}
	spec := process.Spec{Path: "setsid", Args: []string{"--fork", self, "run", "--data", c.Data}, Log: log}
	if err := process.Run(ctx, spec); err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	return c.follow(ctx)
}

// follow shows the supervisor's log until the cluster is ready or has failed.
func (c *upCmd) follow(ctx context.Context) error {
	log, err := os.Open(filepath.Join(c.Data, "node.log"))
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	defer log.Close()
	var said strings.Builder
	began := false
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		record, _, err := cluster.Find(c.Data)
		if err != nil && !errors.Is(err, cluster.ErrNotRunning) {
			return err
		}
		if _, err := io.Copy(io.MultiWriter(os.Stdout, &said), log); err != nil {
			return fmt.Errorf("reading log: %w", err)
		}
		if record.Ready {
			return describe(c.Data, record)
		}
		began = began || err == nil
		if began && err != nil || strings.Contains("\n"+said.String(), failed) {
			return errors.New("the cluster did not start")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the cluster, which may still come up: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// failed begins the last line of a supervisor that gave up.
const failed = "\nnode: "

// Run keeps the cluster until a signal comes or the node ends by itself.
func (c *runCmd) Run(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding own program: %w", err)
	}
	progress := stopwatch()
	node, err := cluster.Start(ctx, cluster.Options{
		Dir: c.Data, Bin: filepath.Dir(filepath.Dir(self)), Progress: progress,
	})
	if err != nil {
		return err
	}
	progress("ready")
	select {
	case <-ctx.Done():
		progress("stopping")
		return node.Stop()
	case <-node.Done():
		return errors.Join(node.Err(), node.Stop())
	}
}

func (c *statusCmd) Run() error {
	record, _, err := cluster.Find(c.Data)
	if err != nil {
		return err
	}
	return describe(c.Data, record)
}

func describe(data string, record cluster.Record) error {
	if !record.Ready {
		fmt.Printf("the cluster is starting (process %d)\n", record.Pid)
		return nil
	}
	fmt.Printf("the cluster runs (process %d, network %s); to use it:\nexport KUBECONFIG=%s\n",
		record.Pid, record.Network, filepath.Join(data, "kubeconfig"))
	return nil
}

func (c *importCmd) Run(ctx context.Context) error {
	for _, archive := range c.Archives {
		if err := cluster.Import(ctx, c.Data, archive); err != nil {
			return err
		}
	}
	return nil
}

// Run asks the supervisor to end, and kills it when it has not within half a
// minute: the kernel then ends the node.
func (c *downCmd) Run(ctx context.Context) error {
	record, supervisor, err := cluster.Find(c.Data)
	switch {
	case errors.Is(err, cluster.ErrNotRunning):
		fmt.Println(err)
	case err != nil:
		return err
	default:
		if err := c.end(ctx, supervisor); err != nil {
			return fmt.Errorf("ending process %d: %w", record.Pid, err)
		}
		fmt.Println("the cluster has ended")
	}
	return cluster.Remove(c.Data, c.Keep)
}

func (c *downCmd) end(ctx context.Context, supervisor *os.Process) error {
	killed := time.After(30 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	request := syscall.SIGTERM
	for {
		if request != 0 {
			if err := supervisor.Signal(request); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return err
			}
			request = 0
		}
		if _, _, err := cluster.Find(c.Data); errors.Is(err, cluster.ErrNotRunning) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-killed:
			request = syscall.SIGKILL
		case <-tick.C:
		}
	}
}
