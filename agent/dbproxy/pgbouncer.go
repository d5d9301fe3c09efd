package dbproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/berth-dev/berth/process"
)

// startLimit bounds how long pgbouncer may take until it answers.
const startLimit = 10 * time.Second

// start runs pgbouncer with the current settings and returns when it answers
// at both its sockets. It leaves nothing running when it fails.
func (p *proxy) start(ctx context.Context) error {
	if err := p.writeAll(); err != nil {
		return err
	}
	if err := p.portFree(); err != nil {
		return err
	}
	program, err := exec.LookPath(p.Pgbouncer)
	if err != nil {
		return fmt.Errorf("finding pgbouncer: %w", err)
	}
	p.lines.hide(p.current.credential.Password)
	// With SIGINT pgbouncer ends once the transactions of its clients have.
	bouncer, err := process.Start(process.Spec{
		Path: program, Args: []string{p.path("pgbouncer.ini")}, Dir: p.private(), Env: []string{"PATH=" + os.Getenv("PATH")},
		Log: p.lines, Stop: syscall.SIGINT,
	})
	if err != nil {
		return err
	}
	if err := p.awaitAnswer(ctx, bouncer); err != nil {
		return errors.Join(err, bouncer.Stop(0))
	}
	p.bouncer, p.started = bouncer, time.Now()
	p.figures.serving(p.current)
	p.link.uses(p.link.changing(), p.current.credential)
	alias := p.current.alias
	p.watchers.Go(func() { p.attend(bouncer, alias) })
	p.log.Info("pgbouncer is up", "login", p.current.credential.User, "database", p.current.alias, "address", p.Listen)
	return nil
}

// writeAll puts every file in place that pgbouncer reads.
func (p *proxy) writeAll() error {
	if err := p.prepareState(); err != nil {
		return err
	}
	p.clearStaged()
	if err := p.write("hba.conf", p.hba()); err != nil {
		return err
	}
	if err := p.writeBeside(p.current); err != nil {
		return err
	}
	return p.write("pgbouncer.ini", p.render(p.current))
}

// writeBeside writes what the ini of s refers to.
func (p *proxy) writeBeside(s settings) error {
	for _, name := range clientNames(s.credential.User) {
		if !slices.Contains(p.names, name) {
			p.names = append(slices.Clone(p.names), name)
		}
	}
	if err := p.write("userlist.txt", userList(p.names, p.password)); err != nil {
		return err
	}
	if len(s.credential.RootCA) == 0 {
		return nil
	}
	return p.write(caName(s.credential), string(s.credential.RootCA))
}

// portFree is asked before pgbouncer is: it only logs that it cannot listen,
// and somebody else's answer would look like its own.
func (p *proxy) portFree() error {
	l, err := net.Listen("tcp", p.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("listening at %s: %w", p.Listen, errPortTaken)
	}
	if err != nil {
		return fmt.Errorf("listening at %s: %w", p.Listen, err)
	}
	return l.Close()
}

func (p *proxy) awaitAnswer(ctx context.Context, bouncer *process.Process) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := p.ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-bouncer.Done():
			return fmt.Errorf("starting pgbouncer: it ended: %w", bouncer.Err())
		case <-ctx.Done():
			return fmt.Errorf("starting pgbouncer: %w", err)
		case <-again.C:
		}
	}
}

// ask is nil when the console has taken the settings and TCP answers too.
func (p *proxy) ask(ctx context.Context) error {
	c, err := p.dialConsole(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.verify(ctx, p.Options, p.current); err != nil {
		return err
	}
	return probe(ctx, p.Listen)
}

// probe asks for TLS, which pgbouncer answers before any login. The kernel
// alone would accept a connection for a process that is stuck.
func probe(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("reaching pgbouncer at %s: %w", address, err)
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	sslRequest := []byte{0, 0, 0, 8, 4, 210, 22, 47}
	var answer [1]byte
	if err := conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("reaching pgbouncer at %s: %w", address, err)
	}
	if _, err := conn.Write(sslRequest); err != nil {
		return fmt.Errorf("reaching pgbouncer at %s: %w", address, err)
	}
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return fmt.Errorf("reaching pgbouncer at %s: %w", address, err)
	}
	return nil
}

// lineLog passes on pgbouncer's warnings and errors. A line that holds a
// secret is left out.
type lineLog struct {
	log *slog.Logger

	mu      sync.Mutex
	secrets []string
	rest    []byte
}

// hide adds a secret; an empty one is none.
func (l *lineLog) hide(secret string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if secret != "" && !slices.Contains(l.secrets, secret) {
		l.secrets = append(l.secrets, secret)
	}
}

// Write never fails.
func (l *lineLog) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, text...)
	for {
		line, after, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(text), nil
		}
		l.rest = after
		l.pass(string(line))
	}
}

func (l *lineLog) pass(line string) {
	for _, secret := range l.secrets {
		if strings.Contains(line, secret) {
			return
		}
	}
	for _, level := range []string{"WARNING ", "ERROR ", "FATAL "} {
		if _, said, found := strings.Cut(line, level); found {
			l.log.Warn("pgbouncer: " + said)
			return
		}
	}
}
