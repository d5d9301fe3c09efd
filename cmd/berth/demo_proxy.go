package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/agent/sidecar"
)

const (
	writers         = 8
	besideRotations = 3
)

// rotateBeside changes the credential while writers keep their connections to
// a dbproxy. What they were told is written has to be there at the end.
func (t *tour) rotateBeside(ctx context.Context) (err error) {
	if _, err := t.runPsql(ctx, "CREATE TABLE visit (login text DEFAULT session_user)"); err != nil {
		return err
	}
	proxy, stop, err := t.startProxy()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	working, rest := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer rest()
	var failure error
	group.Go(func() { failure = t.mount(working, proxy) })
	if err := t.awaitInProxy(ctx, proxy, t.claim.Status.Credential.Login); err != nil {
		return errors.Join(err, t.proxyLog())
	}
	var load sidecar.Load
	for range writers {
		group.Go(func() {
			load.Stay(ctx, working, proxy.Target(t.claim.Status.Database), 5*time.Millisecond, func(ctx context.Context, conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, "INSERT INTO visit DEFAULT VALUES")
				return err
			})
		})
	}
	for range besideRotations {
		err := t.rotateOnce(ctx, func(login string) error { return t.awaitInProxy(ctx, proxy, login) })
		if err != nil {
			return errors.Join(err, t.proxyLog())
		}
	}
	rest()
	group.Wait()
	return errors.Join(failure, t.verdict(ctx, proxy, &load))
}

// startProxy runs one as a pod has it: dbproxy refuses to be root, and so does
// the pgbouncer it supervises.
func (t *tour) startProxy() (*sidecar.Proxy, func() error, error) {
	dir := filepath.Join(t.data, "dbproxy")
	if err := errors.Join(os.Mkdir(dir, 0o711), os.Chmod(dir, 0o711)); err != nil {
		return nil, nil, fmt.Errorf("making folder: %w", err)
	}
	log, err := os.OpenFile(t.proxyLogFile(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("opening log: %w", err)
	}
	proxy, err := sidecar.Start(sidecar.Spec{
		Agent: filepath.Join(t.bin, "berth-agent"), Pgbouncer: filepath.Join(t.bin, "pgbouncer"), Dir: dir, Log: log, Flags: []string{"--drain=5s"},
	})
	if err != nil {
		return nil, nil, errors.Join(err, log.Close())
	}
	return proxy, func() error { return errors.Join(proxy.Stop(15*time.Second), log.Close()) }, nil
}

func (t *tour) proxyLogFile() string { return filepath.Join(t.data, "dbproxy.log") }

// proxyLog is an error that tells the end of the proxy's log.
func (t *tour) proxyLog() error {
	text, err := os.ReadFile(t.proxyLogFile())
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("dbproxy said:\n%s", strings.Join(lines[max(0, len(lines)-10):], "\n"))
}

// mount shows the Secret to the proxy, as the kubelet does in a pod.
func (t *tour) mount(ctx context.Context, proxy *sidecar.Proxy) error {
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for shown := ""; ; {
		if secret, err := t.secret(ctx); err == nil && secret.ResourceVersion != shown {
			if err := proxy.Show(secret.Data); err != nil {
				return err
			}
			shown = secret.ResourceVersion
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

func (t *tour) awaitInProxy(ctx context.Context, proxy *sidecar.Proxy, login string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return proxy.AwaitLogin(ctx, login)
}

// verdict counts the rows that are there, and the logins that wrote them.
func (t *tour) verdict(ctx context.Context, proxy *sidecar.Proxy, load *sidecar.Load) error {
	conn, err := sidecar.Connect(ctx, proxy.Target(t.claim.Status.Database))
	if err != nil {
		return fmt.Errorf("connecting through the proxy: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }() // all was answered
	var rows, logins int
	if err := conn.QueryRow(ctx, "SELECT count(*), count(DISTINCT login) FROM visit").Scan(&rows, &logins); err != nil {
		return fmt.Errorf("counting what was written: %w", err)
	}
	t.say("   %d rotations, %d writes over %d connections as %d logins, %d errors, %d lost; the longest took %d ms", besideRotations,
		load.Done, writers, logins, load.Failed, max(0, load.Done-rows), load.Longest.Milliseconds())
	switch {
	case load.Failed > 0:
		return fmt.Errorf("%d writes failed: %w", load.Failed, load.First)
	case rows < load.Done, logins < 2:
		return fmt.Errorf("%d rows of %d logins are there, %d writes were acknowledged", rows, logins, load.Done)
	}
	return nil
}
