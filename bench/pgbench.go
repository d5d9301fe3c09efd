package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/berth-dev/berth/agent/sidecar"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/process"
)

const (
	mustRate    = 0.97
	mustLatency = 0.15 // ms
	rateClients = 8
)

// protocols of pgbench: its prepared statements outlive a transaction, which
// transaction pooling by this pgbouncer does not offer.
var protocols = []string{"simple", "extended"}

// pgbench runs the program against to.
func (t *tenant) pgbench(ctx context.Context, to postgres.Target, args ...string) (string, error) {
	passwords := filepath.Join(t.dir, "pgpass")
	line := fmt.Sprintf("%s:%d:%s:%s:%s\n", to.Host, to.Port, to.Database, to.User, to.Password)
	if err := os.WriteFile(passwords, []byte(line), 0o600); err != nil {
		return "", fmt.Errorf("writing a password file: %w", err)
	}
	var out bytes.Buffer
	err := process.Run(ctx, process.Spec{
		Path: t.bench.bin("pg", major, "bin", "pgbench"), Dir: t.dir, Log: &out, Env: []string{"PGPASSFILE=" + passwords, "PGSSLMODE=disable"},
		Args: append([]string{"-h", to.Host, "-p", strconv.Itoa(int(to.Port)), "-U", to.User}, append(args, to.Database)...),
	})
	if err != nil {
		return "", fmt.Errorf("running pgbench: %w\n%s", err, out.String())
	}
	return out.String(), nil
}

// fill makes the tables of pgbench, as the owner.
func (t *tenant) fill(ctx context.Context) error {
	if _, err := t.pgbench(ctx, t.login, "-i", "-q", "-s", "1"); err != nil {
		return err
	}
	if err := t.checkpoint(ctx); err != nil {
		return err
	}
	_, err := t.rate(ctx, t.login, "simple") // what comes first is slower, whichever it is
	return err
}

// rate is what pgbench reads in a second, over connections that stay.
func (t *tenant) rate(ctx context.Context, to postgres.Target, protocol string) (float64, error) {
	out, err := t.pgbench(ctx, to, "-n", "-S", "-M", protocol, "-c", strconv.Itoa(rateClients), "-j", "2", "-T", t.seconds())
	if err != nil {
		return 0, err
	}
	return parseRate(out)
}

func (t *tenant) seconds() string {
	return strconv.Itoa(int(t.bench.size.proxyRun / time.Second))
}

func parseRate(out string) (float64, error) {
	for line := range strings.Lines(out) {
		var rate float64
		if n, _ := fmt.Sscanf(line, "tps = %f", &rate); n == 1 {
			return rate, nil
		}
	}
	return 0, fmt.Errorf("reading pgbench's rate: it said\n%s", out)
}

// latency is the median time of a query of one client, in milliseconds.
func (t *tenant) latency(ctx context.Context, to postgres.Target) (float64, error) {
	dir, err := os.MkdirTemp(t.dir, "latency-")
	if err != nil {
		return 0, fmt.Errorf("making folder: %w", err)
	}
	_, err = t.pgbench(ctx, to, "-n", "-S", "-c", "1", "-T", t.seconds(), "-l", "--log-prefix", filepath.Join(dir, "log"))
	if err != nil {
		return 0, err
	}
	logs, err := filepath.Glob(filepath.Join(dir, "log.*"))
	if err != nil || len(logs) != 1 {
		return 0, fmt.Errorf("finding pgbench's log: %d files, %w", len(logs), err)
	}
	text, err := os.ReadFile(logs[0])
	if err != nil {
		return 0, fmt.Errorf("reading pgbench's log: %w", err)
	}
	return parseLatency(string(text))
}

// parseLatency takes the third column, which is in microseconds.
func parseLatency(log string) (float64, error) {
	var took []float64
	for line := range strings.Lines(log) {
		columns := strings.Fields(line)
		if len(columns) < 3 {
			return 0, fmt.Errorf("reading pgbench's log: a line of %d columns", len(columns))
		}
		us, err := strconv.ParseFloat(columns[2], 64)
		if err != nil {
			return 0, fmt.Errorf("reading pgbench's log: %w", err)
		}
		took = append(took, us/1000)
	}
	if len(took) == 0 {
		return 0, fmt.Errorf("reading pgbench's log: it is empty")
	}
	return median(took), nil
}

// byHand is a pgbouncer with the settings of the proxy's, but nobody beside it.
func (t *tenant) byHand() (postgres.Target, *process.Process, error) {
	dir := filepath.Join(t.dir, "by-hand")
	address := sidecar.FreeAddress()
	ini := fmt.Sprintf(`[databases]
orders = host=%s port=%d dbname=orders user=%s password='%s'
[pgbouncer]
listen_addr = %s
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = %s/users
pool_mode = transaction
default_pool_size = 20
max_client_conn = 900
server_login_retry = 1
server_reset_query = DISCARD ALL
server_reset_query_always = 1
ignore_startup_parameters = extra_float_digits,options,search_path,statement_timeout,lock_timeout,idle_in_transaction_session_timeout
server_tls_sslmode = disable
log_connections = 0
log_disconnections = 0
log_stats = 0
`, t.login.Host, t.login.Port, t.login.User, t.login.Password, address.Addr(), address.Port(), dir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return postgres.Target{}, nil, fmt.Errorf("making folder: %w", err)
	}
	for name, text := range map[string]string{"ini": ini, "users": `"app" ""` + "\n"} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return postgres.Target{}, nil, fmt.Errorf("writing %s: %w", name, err)
		}
		if err := sidecar.Give(file); err != nil {
			return postgres.Target{}, nil, err
		}
	}
	if err := sidecar.Give(dir); err != nil {
		return postgres.Target{}, nil, err
	}
	target := t.proxy.Target(tenantName)
	target.Port = address.Port()
	hand, err := process.Start(process.Spec{Path: t.bench.bin("pgbouncer"), Args: []string{"-q", filepath.Join(dir, "ini")}, Dir: "/", User: sidecar.Account()})
	return target, hand, err
}
