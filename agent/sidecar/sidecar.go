// Package sidecar runs a dbproxy on this machine as a pod has it beside its
// program: with a mounted Secret that changes as the kubelet changes it, as an
// account that is not root, on loopback.
//
// It stands in for the kubelet in the tour and in the bench. It knows nothing
// of Kubernetes, and nothing of what the Secret says.
package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/process"
)

// Spec says what to run.
type Spec struct {
	Agent     string // berth-agent
	Pgbouncer string
	Dir       string // an empty folder that Account may pass through
	Flags     []string
	Log       io.Writer
}

// Proxy is a running dbproxy.
type Proxy struct {
	process *process.Process
	secret  string // folder of the mounted Secret
	version int
	listen  netip.AddrPort
	health  string
	metrics string
}

// Start runs a dbproxy that waits for its first credential. Stop ends it.
func Start(spec Spec) (*Proxy, error) {
	p := &Proxy{secret: filepath.Join(spec.Dir, "secret")}
	state := filepath.Join(spec.Dir, "state")
	for _, folder := range []string{p.secret, state} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return nil, fmt.Errorf("making folder: %w", err)
		}
		if err := Give(folder); err != nil {
			return nil, err
		}
	}
	agent, err := reachable(spec.Agent, spec.Dir)
	if err != nil {
		return nil, err
	}
	pgbouncer, err := filepath.EvalSymlinks(spec.Pgbouncer)
	if err != nil {
		return nil, fmt.Errorf("finding pgbouncer: %w", err)
	}
	p.listen, p.health, p.metrics = FreeAddress(), FreeAddress().String(), FreeAddress().String()
	p.process, err = process.Start(process.Spec{
		Path: agent, Dir: spec.Dir, User: Account(), Log: spec.Log, Env: []string{},
		Args: append([]string{
			"dbproxy", "--credentials", p.secret, "--state", state, "--pgbouncer", pgbouncer,
			"--listen", p.listen.String(), "--health-address", p.health, "--metrics-address", p.metrics,
		}, spec.Flags...),
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Account is whom a dbproxy runs as here: pgbouncer, like PostgreSQL, refuses
// to be root. Empty is this program's own account.
func Account() string {
	if os.Geteuid() == 0 {
		return "postgres"
	}
	return ""
}

// Give hands path to Account.
func Give(path string) error {
	if Account() == "" {
		return nil
	}
	ids, err := process.Credential(Account())
	if err != nil {
		return err
	}
	if err := os.Chown(path, int(ids.Uid), int(ids.Gid)); err != nil {
		return fmt.Errorf("giving %s to %s: %w", path, Account(), err)
	}
	return nil
}

// reachable gives a program that Account can run. Where ours stands may be
// closed to it.
func reachable(program, dir string) (string, error) {
	if Account() == "" {
		return program, nil
	}
	from, err := os.Open(program)
	if err != nil {
		return "", fmt.Errorf("opening %s (run: make build): %w", program, err)
	}
	defer func() { _ = from.Close() }()
	its := filepath.Join(dir, filepath.Base(program))
	to, err := os.OpenFile(its, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o700)
	if err != nil {
		return "", fmt.Errorf("copying %s: %w", program, err)
	}
	// In small pieces, as an image is unpacked: the kernel would keep what is
	// written at once in large pages, and count all of it as the program's memory.
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Close(), Give(its)); err != nil {
		return "", fmt.Errorf("copying %s: %w", program, err)
	}
	return its, nil
}

// FreeAddress is on loopback, and nothing listens there. It stays below the ports of outgoing connections: one of those, or
// what is left of it, would keep pgbouncer from listening.
func FreeAddress() netip.AddrPort {
	for {
		address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(12000+rand.IntN(20000)))
		if l, err := net.Listen("tcp", address.String()); err == nil {
			_ = l.Close() // it was opened to see that it can be
			return address
		}
	}
}

// Show makes data what is mounted: all of it at once by one rename of a link,
// after which the version before is removed. Only Account can read it.
func (p *Proxy) Show(data map[string][]byte) error {
	link := filepath.Join(p.secret, "..data")
	old, _ := os.Readlink(link) // none before the first
	p.version++
	name := fmt.Sprintf("..v%d", p.version)
	folder := filepath.Join(p.secret, name)
	err := errors.Join(os.Mkdir(folder, 0o700), Give(folder))
	for key, value := range data {
		file := filepath.Join(folder, key)
		err = errors.Join(err, os.WriteFile(file, value, 0o400), Give(file))
	}
	err = errors.Join(err, os.Symlink(name, link+"_tmp"), os.Rename(link+"_tmp", link))
	if old != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Join(p.secret, old)))
	}
	if err != nil {
		return fmt.Errorf("showing the Secret: %w", err)
	}
	return nil
}

// AwaitLogin returns once every new transaction uses login.
func (p *Proxy) AwaitLogin(ctx context.Context, login string) error {
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		now, err := p.login(ctx)
		if err == nil && now == login {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for login %s in the proxy: %w", login, errors.Join(context.Cause(ctx), err))
		case <-p.process.Done():
			return fmt.Errorf("waiting for login %s in the proxy: it has ended: %w", login, errors.Join(errEnded, p.process.Err()))
		case <-again.C:
		}
	}
}

var errEnded = errors.New("dbproxy has ended; its log says why")

func (p *Proxy) login(ctx context.Context) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.health+"/credential", http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct{ Login string }
	err = json.NewDecoder(response.Body).Decode(&answer)
	return answer.Login, err
}

// Target is how a program beside the proxy reaches the database.
func (p *Proxy) Target(database string) postgres.Target {
	return postgres.Target{Host: p.listen.Addr().String(), Port: p.listen.Port(), User: "app", Database: database, SSLMode: "disable"}
}

// MetricsURL is where its metrics are.
func (p *Proxy) MetricsURL() string { return "http://" + p.metrics + "/metrics" }

// Pid is the process id of the agent; pgbouncer is its only child.
func (p *Proxy) Pid() int { return p.process.Pid() }

// Stop lets clients finish, and returns once all has ended.
func (p *Proxy) Stop(grace time.Duration) error { return p.process.Stop(grace) }
