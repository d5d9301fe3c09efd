package dev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-dev/berth/process"
)

// child is one of the programs of a control plane, with its log.
type child struct {
	*process.Process
	name, log string
}

func (c *ControlPlane) run(name string, args []string) (*child, error) {
	path := filepath.Join(c.options.Dir, "logs", name+".log")
	_ = os.Rename(path, path+".old") // the first start has none
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening log of %s: %w", name, err)
	}
	defer log.Close()
	p, err := process.Start(process.Spec{
		Path: filepath.Join(c.options.Bin, name),
		Args: args,
		Dir:  filepath.Join(c.options.Dir, "etcd"),
		Log:  log,
	})
	if err != nil {
		return nil, err
	}
	return &child{Process: p, name: name, log: path}, nil
}

func (p *child) failure() error {
	return fmt.Errorf("%s ended: %w", p.name, errors.Join(p.Err(), p.tail()))
}

// tail is the end of the log, as an error to join to the cause.
func (p *child) tail() error {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return fmt.Errorf("reading log of %s: %w", p.name, err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return fmt.Errorf("log of %s ends:\n%s", p.name, strings.Join(lines[max(0, len(lines)-8):], "\n"))
}
