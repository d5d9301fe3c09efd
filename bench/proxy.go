package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/agent/sidecar"
	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/postgres"
)

// tenant is an empty server with one database, whose two logins alternate, and
// a dbproxy in front of it. No controller and no API server takes cores from it.
type tenant struct {
	*world
	admin *pgx.Conn
	login postgres.Target // the current one
	proxy *sidecar.Proxy
	count int // of proxies so far
}

const tenantName = "orders"

// withTenant calls measure with a tenant, and removes every trace of it.
func withTenant(ctx context.Context, b *bench, measure func(context.Context, *tenant) (row, error)) (_ row, err error) {
	ctx, fail := context.WithCancelCause(ctx)
	t := &tenant{world: &world{bench: b, fail: fail}}
	defer func() { err = errors.Join(err, t.close()) }()
	if err := t.start(ctx); err != nil {
		return row{}, err
	}
	return measure(ctx, t)
}

func (t *tenant) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := t.makeDir()
	if err != nil {
		return err
	}
	if err := t.startPostgres(ctx); err != nil {
		return err
	}
	if t.admin, err = t.superuser(ctx, t.world.admin.Database); err != nil {
		return err
	}
	for _, sql := range []string{
		"CREATE ROLE orders NOLOGIN",
		"CREATE ROLE orders_a NOLOGIN IN ROLE orders", "ALTER ROLE orders_a SET role TO orders",
		"CREATE ROLE orders_b NOLOGIN IN ROLE orders", "ALTER ROLE orders_b SET role TO orders",
		"CREATE DATABASE orders OWNER orders",
	} {
		if _, err := t.admin.Exec(ctx, sql); err != nil {
			return fmt.Errorf("making the tenant: %w", err)
		}
	}
	if err := t.nextLogin(ctx); err != nil {
		return err
	}
	return t.restartProxy(ctx)
}

// nextLogin opens the login whose turn it is, with a new password.
func (t *tenant) nextLogin(ctx context.Context) error {
	next := tenantName + "_a"
	if t.login.User == next {
		next = tenantName + "_b"
	}
	password := credential.NewPassword(v1alpha1.PasswordPolicy{Length: 32})
	sql := "ALTER ROLE " + next + " LOGIN PASSWORD '" + credential.Verifier(password) + "'" // base64 and $ alone
	if _, err := t.admin.Exec(ctx, sql); err != nil {
		return errors.New("opening a login: the server refused")
	}
	t.login = t.as(tenantName, next, password)
	return nil
}

// show tells the proxy of the current login.
func (t *tenant) show() error {
	return t.proxy.Show(map[string][]byte{credential.KeyURI: []byte(t.login.URI())})
}

// restartProxy begins with a fresh process, and returns once it serves.
func (t *tenant) restartProxy(ctx context.Context) error {
	if t.proxy != nil {
		if err := t.proxy.Stop(15 * time.Second); err != nil {
			return err
		}
	}
	t.count++
	dir := filepath.Join(t.dir, fmt.Sprintf("proxy-%d", t.count))
	if err := errors.Join(os.Mkdir(dir, 0o711), os.Chmod(dir, 0o711)); err != nil {
		return fmt.Errorf("making folder: %w", err)
	}
	log, err := os.OpenFile(t.proxyLog(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	defer log.Close()
	t.proxy, err = sidecar.Start(sidecar.Spec{
		Agent: t.bench.bin("berth-agent"), Pgbouncer: t.bench.bin("pgbouncer"), Dir: dir, Log: log, Flags: []string{"--drain=2s"},
	})
	if err != nil {
		return err
	}
	if err := t.show(); err != nil {
		return err
	}
	return t.awaitLogin(ctx)
}

func (t *tenant) proxyLog() string { return filepath.Join(t.dir, "dbproxy.log") }

func (t *tenant) awaitLogin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := t.proxy.AwaitLogin(ctx, t.login.User); err != nil {
		return fmt.Errorf("%w\n%s", err, tail(t.proxyLog()))
	}
	return nil
}

// rotate goes to the other login, as a controller does: the one before is
// closed once no session of it is left. It returns how long after the Secret
// changed a query ran as the new login.
func (t *tenant) rotate(ctx context.Context) (time.Duration, error) {
	before := t.login.User
	if err := t.nextLogin(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := t.show(); err != nil {
		return 0, err
	}
	if err := t.awaitQuery(ctx); err != nil {
		return 0, err
	}
	took := time.Since(began)
	err := t.every(ctx, func() (bool, error) {
		var left int
		err := t.admin.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE usename = $1", before).Scan(&left)
		return left == 0, err
	})
	if err != nil {
		return 0, fmt.Errorf("waiting for the end of %s: %w", before, err)
	}
	if _, err := t.admin.Exec(ctx, "ALTER ROLE "+before+" NOLOGIN"); err != nil {
		return 0, fmt.Errorf("closing %s: %w", before, err)
	}
	return took, nil
}

// awaitQuery returns once a query through the proxy runs as the current login.
func (t *tenant) awaitQuery(ctx context.Context) error {
	conn, err := sidecar.Connect(ctx, t.proxy.Target(tenantName))
	if err != nil {
		return err
	}
	defer closeConn(conn)
	return t.every(ctx, func() (bool, error) {
		var user string
		err := conn.QueryRow(ctx, "SELECT session_user::text").Scan(&user)
		return user == t.login.User, err
	})
}

// every asks holds each millisecond until it is true or fails, or ctx ends.
func (t *tenant) every(ctx context.Context, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("it took too long"))
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if held, err := holds(); held || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func (t *tenant) close() error {
	var err error
	if t.proxy != nil {
		err = t.proxy.Stop(15 * time.Second)
	}
	if t.admin != nil {
		closeConn(t.admin)
	}
	return errors.Join(err, t.world.close())
}
