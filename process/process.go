// Package process runs child programs that never outlive this one.
//
// A child gets its own process group and dies with its parent, even when the
// parent is killed: the kernel sends the death signal. It knows nothing of
// what it runs.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Spec says what to run.
type Spec struct {
	Path string
	Args []string // without the program's own name
	Env  []string // nil: the parent's environment
	Dir  string
	User string         // run as this account; only root may choose one
	Log  io.Writer      // receives stdout and stderr; nil discards them
	Stop syscall.Signal // asks for an orderly end; zero is SIGTERM
}

// Process is a running child.
type Process struct {
	cmd  *exec.Cmd
	stop syscall.Signal
	done chan struct{}
	err  error
}

// starter owns the one thread that forks. Linux ties a death signal to the
// thread that made the child, so that thread has to live as long as we do.
var starter = sync.OnceValue(func() chan func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// Start runs spec and returns once the program is executing.
func Start(spec Spec) (*Process, error) {
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = spec.Env, spec.Dir, spec.Log, spec.Log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if spec.User != "" {
		credential, err := Credential(spec.User)
		if err != nil {
			return nil, err
		}
		cmd.SysProcAttr.Credential = credential
	}
	started := make(chan error, 1)
	starter() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Path, err)
	}
	p := &Process{cmd: cmd, stop: spec.Stop, done: make(chan struct{})}
	if p.stop == 0 {
		p.stop = syscall.SIGTERM
	}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Run runs spec to its end. When ctx ends first, the program is killed.
func Run(ctx context.Context, spec Spec) error {
	p, err := Start(spec)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.Stop(0))
	}
}

// Pid is the child's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the child ended; it is valid once Done is closed.
func (p *Process) Err() error { return p.err }

// Stop asks the child to end, and kills its whole group when it has not
// within grace. It returns once the child is gone.
func (p *Process) Stop(grace time.Duration) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if grace > 0 {
		if err := p.cmd.Process.Signal(p.stop); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stopping %s: %w", p.cmd.Path, err)
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-p.done:
			return nil
		case <-timer.C:
		}
	}
	_ = syscall.Kill(-p.Pid(), syscall.SIGKILL) // the group may be gone already
	<-p.done
	return nil
}

// Credential looks up the ids to run as account name.
func Credential(name string) (*syscall.Credential, error) {
	account, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("looking up account %s: %w", name, err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("reading uid of %s: %w", name, err)
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("reading gid of %s: %w", name, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
