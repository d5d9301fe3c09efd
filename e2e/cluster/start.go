package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/berth-dev/berth/process"
)

func (c *Cluster) start(ctx context.Context) error {
	var err error
	if c.claim, err = c.network.claim(); err != nil {
		return err
	}
	if err := c.network.sweep(ctx); err != nil {
		return err
	}
	if taken, err := c.network.taken(); err != nil || taken {
		return errors.Join(err, fmt.Errorf("using network %s: %w", c.network, errTaken))
	}
	record, err := current(Record{Network: c.network})
	if err != nil {
		return err
	}
	if err := record.write(c.options.Dir); err != nil {
		return err
	}
	if err := os.Remove(c.Kubeconfig()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing kubeconfig of an earlier start: %w", err)
	}
	if err := c.network.makeCgroups(); err != nil {
		return err
	}
	c.output = &output{tell: c.options.Progress}
	c.node, err = process.Start(process.Spec{
		Path: "unshare",
		Args: []string{
			"--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
			filepath.Join(c.options.Bin, "e2e", "node"), "init",
			"--data", c.options.Dir, "--bin", c.options.Bin, "--network", strconv.Itoa(int(c.network)),
		},
		Log: c.output,
	})
	if err != nil {
		return err
	}
	if err := c.connect(ctx); err != nil {
		return err
	}
	if err := c.awaitReady(ctx); err != nil {
		return err
	}
	record.Ready = true
	return record.write(c.options.Dir)
}

// connect gives the node its end of a veth pair, once it has a network
// namespace. The node takes its being there as the sign to go on.
func (c *Cluster) connect(ctx context.Context) error {
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("reading network namespace: %w", err)
	}
	theirs := fmt.Sprintf("/proc/%d/ns/net", c.node.Pid())
	if err := c.poll(ctx, func() bool {
		namespace, err := os.Readlink(theirs)
		return err == nil && namespace != ours
	}); err != nil {
		return err
	}
	return c.network.connect(ctx, c.node.Pid())
}

func (c *Cluster) awaitReady(ctx context.Context) error {
	if err := c.poll(ctx, func() bool {
		_, err := os.Stat(c.Kubeconfig())
		return err == nil
	}); err != nil {
		return err
	}
	var err error
	c.admin, err = readAccess(c.Kubeconfig())
	return err
}

// poll returns nil once condition holds, or why it will not.
func (c *Cluster) poll(ctx context.Context, condition func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-c.node.Done():
			return fmt.Errorf("the node ended: %s", c.output.end())
		case <-ctx.Done():
			return fmt.Errorf("waiting for the node: %w; it was at: %s", ctx.Err(), c.output.end())
		case <-tick.C:
		}
	}
	return nil
}

// output passes on whole lines of what the node says, and keeps the last.
type output struct {
	tell    func(string)
	mu      sync.Mutex
	partial string
	last    string
}

// Write never fails.
func (o *output) Write(data []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	lines := strings.Split(o.partial+string(data), "\n")
	o.partial = lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		o.last = line
		o.tell(line)
	}
	return len(data), nil
}

func (o *output) end() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}
