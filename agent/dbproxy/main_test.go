package dbproxy_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/process"
)

// program is berth-agent of this very tree.
var program string

type suite struct{ *testing.M }

// Run builds the program first.
func (s suite) Run() int {
	dir, err := os.MkdirTemp("", "berth-agent-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "berth-agent")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "github.com/berth-dev/berth/cmd/berth-agent")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building berth-agent: %v: %s", err, out)
		return 1
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return s.M.Run()
}

func TestMain(m *testing.M) { testkit.Main(suite{m}) }

// account runs the program: like PostgreSQL, pgbouncer refuses to be root.
func account() string {
	if os.Getuid() == 0 {
		return "postgres"
	}
	return ""
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// own gives path and all below it to the account.
func own(t testing.TB, path string) {
	t.Helper()
	if account() == "" {
		return
	}
	who, err := process.Credential(account())
	must(t, err)
	must(t, filepath.WalkDir(path, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, int(who.Uid), int(who.Gid)))
	}))
}

// eventually waits for a condition, and fails with what was waited for.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-limit.C:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// buffer collects what a process says.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// tenant is a database with its owner and two logins, and the folder that
// shows the credential as the kubelet does.
type tenant struct {
	server    *testkit.PostgresServer
	owner     string
	database  string
	dir       string // mounted Secret
	version   int
	passwords []string // all there were: none may ever be seen
}

func newTenant(t testing.TB, server *testkit.PostgresServer) *tenant {
	t.Helper()
	owner := server.NewDatabaseName(t)
	return newTenantNamed(t, server, owner, owner)
}

func newTenantNamed(t testing.TB, server *testkit.PostgresServer, owner, database string) *tenant {
	t.Helper()
	c := &tenant{server: server, owner: owner, database: database, dir: filepath.Join(testkit.OpenDir(t), "secret")}
	must(t, os.Mkdir(c.dir, 0o755))
	server.Exec(t, "", fmt.Sprintf("CREATE ROLE %s NOLOGIN", id(owner)))
	for _, slot := range []string{"_a", "_b"} {
		server.Exec(t, "", fmt.Sprintf("CREATE ROLE %s NOLOGIN IN ROLE %s", id(owner+slot), id(owner)))
		server.Exec(t, "", fmt.Sprintf("ALTER ROLE %s SET role TO %s", id(owner+slot), id(owner)))
	}
	server.Exec(t, "", fmt.Sprintf("CREATE DATABASE %s OWNER %s", id(database), id(owner)))
	server.Exec(t, database, fmt.Sprintf("SET ROLE %s; CREATE SCHEMA app; CREATE TABLE app.events (id bigserial, by text DEFAULT current_user)", id(owner)))
	return c
}

func id(name string) string { return pgx.Identifier{name}.Sanitize() }

// open gives a slot a new password and lets it log in.
func (c *tenant) open(t testing.TB, slot string) postgres.Target {
	t.Helper()
	return c.openWith(t, slot, "pw-"+rand.Text())
}

func (c *tenant) openWith(t testing.TB, slot, password string) postgres.Target {
	t.Helper()
	c.passwords = append(c.passwords, password)
	c.server.Exec(t, "", fmt.Sprintf("ALTER ROLE %s LOGIN PASSWORD '%s'", id(c.owner+slot), strings.ReplaceAll(password, "'", "''")))
	target := c.server.Target()
	target.User, target.Password, target.Database = c.owner+slot, password, c.database
	return target
}

func (c *tenant) close(t testing.TB, slot string) {
	t.Helper()
	c.server.Exec(t, "", fmt.Sprintf("ALTER ROLE %s NOLOGIN", id(c.owner+slot)))
}

// sessions counts those of a slot on the server.
func (c *tenant) sessions(t testing.TB, slot string) int {
	t.Helper()
	name := strings.ReplaceAll(c.owner+slot, "'", "''")
	n, err := strconv.Atoi(c.server.Query(t, "", "SELECT count(*) FROM pg_stat_activity WHERE usename = '"+name+"'")[0])
	must(t, err)
	return n
}

// publish shows a credential.
func (c *tenant) publish(t testing.TB, target postgres.Target) {
	t.Helper()
	data := map[string]string{
		"uri_dsn.txt": target.URI(), "hostname": target.Host, "port": fmt.Sprint(target.Port), "database": target.Database,
		"username": target.User, "password": target.Password, "sslmode": target.SSLMode,
	}
	if len(target.RootCA) > 0 {
		data["ca.crt"] = string(target.RootCA)
	}
	c.show(t, data)
}

// show swaps the whole content of the folder by one rename, and removes what
// was there, as the kubelet does.
func (c *tenant) show(t testing.TB, data map[string]string) {
	t.Helper()
	old, _ := os.Readlink(filepath.Join(c.dir, "..data"))
	c.version++
	version := fmt.Sprintf("..v%d", c.version)
	must(t, os.Mkdir(filepath.Join(c.dir, version), 0o755))
	for key, value := range data {
		must(t, os.WriteFile(filepath.Join(c.dir, version, key), []byte(value), 0o644))
	}
	must(t, os.Symlink(version, filepath.Join(c.dir, "..data_tmp")))
	must(t, os.Rename(filepath.Join(c.dir, "..data_tmp"), filepath.Join(c.dir, "..data")))
	if old != "" {
		must(t, os.RemoveAll(filepath.Join(c.dir, old)))
	}
}

// agent is a running berth-agent dbproxy.
type agent struct {
	tenant  *tenant
	process *process.Process
	log     *buffer
	port    int
	health  int
	metrics int
	state   string
	ended   bool
}

// lowPort is free, and never that of an outgoing connection.
func lowPort(t testing.TB) int {
	t.Helper()
	for {
		port := 12000 + mathrand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			must(t, l.Close())
			return port
		}
	}
}

// launch starts an agent; what it prints and shows is checked for secrets when
// the test ends.
func (c *tenant) launch(t testing.TB, flags ...string) *agent {
	t.Helper()
	a := &agent{tenant: c, log: &buffer{}, port: lowPort(t), health: lowPort(t), metrics: lowPort(t), state: filepath.Join(testkit.OpenDir(t), "state")}
	must(t, os.Mkdir(a.state, 0o755))
	own(t, a.state)
	a.start(t, flags...)
	t.Cleanup(func() { a.finish(t) })
	return a
}

func (a *agent) start(t testing.TB, flags ...string) {
	t.Helper()
	pgbouncer := testkit.Bin(t, "pgbouncer")
	if _, err := os.Stat(pgbouncer); err != nil {
		t.Fatal("pgbouncer is not in bin: run `make tools`")
	}
	pgbouncer, err := filepath.EvalSymlinks(pgbouncer) // the repository may be closed to the account
	must(t, err)
	args := append([]string{
		"dbproxy", "--credentials", a.tenant.dir, "--listen", fmt.Sprintf("127.0.0.1:%d", a.port), "--state", a.state,
		"--pgbouncer", pgbouncer, "--health-address", fmt.Sprintf("127.0.0.1:%d", a.health),
		"--metrics-address", fmt.Sprintf("127.0.0.1:%d", a.metrics), "--drain", "10s",
	}, flags...)
	a.process, err = process.Start(process.Spec{Path: program, Args: args, Dir: "/", User: account(), Log: a.log})
	must(t, err)
	a.ended = false
}

// ready launches an agent and waits until it serves.
func (c *tenant) ready(t testing.TB, flags ...string) *agent {
	t.Helper()
	a := c.launch(t, flags...)
	a.awaitReady(t)
	return a
}

func (a *agent) awaitReady(t testing.TB) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("the agent said:\n%s", a.log)
		}
	}()
	eventually(t, "the agent is ready", func() bool {
		select {
		case <-a.process.Done():
			t.Fatalf("the agent ended: %v\n%s", a.process.Err(), a.log)
		default:
		}
		code, _ := a.get("/healthz")
		return code == http.StatusOK
	})
}

func (a *agent) get(path string) (code int, body string) {
	port := a.health
	if path == "/metrics" {
		port = a.metrics
	}
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		return 0, ""
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, ""
	}
	return response.StatusCode, string(text)
}

func (a *agent) login() string {
	_, body := a.get("/credential")
	var answer struct{ Login string }
	_ = json.Unmarshal([]byte(body), &answer) // no answer is no login
	return answer.Login
}

// metric is the value of one line of /metrics; labels included in its name.
func (a *agent) metric(name string) float64 {
	_, body := a.get("/metrics")
	for line := range strings.Lines(body) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), name+" "); found {
			n, _ := strconv.ParseFloat(value, 64)
			return n
		}
	}
	return 0
}

func (a *agent) awaitLogin(t testing.TB, login string) {
	t.Helper()
	eventually(t, "login "+login+" in use", func() bool { return a.login() == login })
}

// target is how a tenant's program reaches its database.
func (a *agent) target() postgres.Target {
	return postgres.Target{Host: "127.0.0.1", Port: uint16(a.port), User: "app", Database: a.tenant.database, SSLMode: "disable"}
}

func (a *agent) connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := testkit.Connect(t.Context(), a.target())
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn
}

// ask runs a query of one value through the proxy, on a connection of its own.
func (a *agent) ask(t testing.TB, sql string) string {
	t.Helper()
	conn, err := testkit.Connect(t.Context(), a.target())
	must(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	return one(t, conn, sql)
}

func one(t testing.TB, conn *pgx.Conn, sql string) string {
	t.Helper()
	var value string
	must(t, conn.QueryRow(t.Context(), sql).Scan(&value))
	return value
}

// child is the process id of the agent's pgbouncer; 0 when there is none.
func (a *agent) child() int {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", a.process.Pid()))
	for _, file := range threads {
		text, _ := os.ReadFile(file)
		if fields := strings.Fields(string(text)); len(fields) > 0 {
			pid, _ := strconv.Atoi(fields[0])
			return pid
		}
	}
	return 0
}

// gone tells whether a process runs no more, reaped or not.
func gone(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err != nil || len(text) == 0
}

// exitCode waits for the agent's end.
func (a *agent) exitCode(t testing.TB) int {
	t.Helper()
	select {
	case <-a.process.Done():
	case <-time.After(30 * time.Second):
		t.Fatalf("the agent does not end\n%s", a.log)
	}
	a.ended = true
	var exit *exec.ExitError
	if errors.As(a.process.Err(), &exit) {
		return exit.ExitCode()
	}
	must(t, a.process.Err())
	return 0
}

func (a *agent) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	must(t, syscall.Kill(a.process.Pid(), s))
}

// finish ends the agent and looks for secrets wherever it could have shown them.
func (a *agent) finish(t testing.TB) {
	t.Helper()
	var shown strings.Builder
	if !a.ended {
		_, metrics := a.get("/metrics")
		_, health := a.get("/healthz")
		shown.WriteString(metrics + health)
		for _, name := range []string{a.tenant.owner, a.tenant.database} {
			if strings.Contains(metrics, name) {
				t.Errorf("the metrics name %s:\n%s", name, metrics)
			}
		}
		for _, pid := range []int{a.process.Pid(), a.child()} {
			for _, file := range []string{"cmdline", "environ"} {
				text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
				shown.Write(text)
			}
		}
		must(t, a.process.Stop(20*time.Second))
	}
	shown.WriteString(a.log.String())
	for _, password := range a.tenant.passwords {
		if strings.Contains(shown.String(), password) {
			t.Errorf("a password was shown:\n%s", shown.String())
		}
	}
	if t.Failed() {
		t.Logf("the agent said:\n%s", a.log)
	}
}
