package dsnexec_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/process"
)

// config writes a configuration of one source, the DSN at dsn, for each part.
func config(t *testing.T, text string) *mounted {
	t.Helper()
	return mount(t, map[string]string{"config.yaml": text})
}

func hotload(name, dsn, commands string) string {
	return fmt.Sprintf("  %s:\n    sources: [{driver: postgres, filename: %s}]\n    destination: {driver: hotload, dsn: 'fsnotify://postgres%s?forceKill=true'}\n    commands:\n%s", name, dsn, dsn, commands)
}

func TestAFailingConfigIsTriedAgainAndHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	v := newTenant(t)
	dsn := mount(t, map[string]string{"uri_dsn.txt": v.uri("a")}).file("uri_dsn.txt")
	v.server.Exec(t, v.name, "CREATE TABLE done(what text, by text); GRANT ALL ON done TO PUBLIC")
	r := start(t, config(t, "configs:\n"+
		hotload("bad", dsn, "      - command: INSERT INTO done VALUES ('half')\n      - command: INSERT INTO missing VALUES (1)\n")+
		hotload("fine", dsn, "      - command: INSERT INTO done VALUES ($1, current_user)\n        args: ['{{ index . \""+dsn+"\" \"dbname\" }}']\n")+
		"  gone:\n    sources: [{driver: json, filename: /nosuch/file}]\n    destination: {driver: shelldb}\n    commands: [{command: \"true\"}]\n",
	).file("config.yaml"))
	r.says(t, "/healthz", "configs.fine: applied")
	r.says(t, "/healthz", `configs.bad: configs.bad.commands[1]: The server says: relation "missing" does not exist (SQLSTATE 42P01).`)
	r.says(t, "/healthz", "configs.gone: /nosuch/file is not there yet")
	r.says(t, "/metrics", `berth_dsnexec_applied{config="bad"} 0`)
	r.says(t, "/metrics", `berth_dsnexec_applied{config="fine"} 1`)
	if got := v.rows(t, "SELECT * FROM done"); got != v.name+"|"+v.name {
		t.Errorf("before the table is there: %s", got)
	}
	v.server.Exec(t, v.name, "CREATE TABLE missing(n int); GRANT ALL ON missing TO PUBLIC")
	r.says(t, "/healthz", "configs.bad: applied")
	if got := v.rows(t, "SELECT what FROM done ORDER BY what = 'half'"); got != v.name+",half" {
		t.Errorf("after: %s", got)
	}
	r.says(t, "/metrics", `berth_dsnexec_runs_total{config="fine",result="applied"} 1`)
}

// Once for each content: a rotation runs the commands with the new login, a
// file that is written anew with the same content does not.
func TestFollowsARotation(t *testing.T) {
	t.Parallel()
	v := newTenant(t)
	v.server.Exec(t, v.name, "CREATE TABLE seen(n serial, login text, who text); GRANT ALL ON seen, seen_n_seq TO PUBLIC")
	secret := mount(t, map[string]string{"uri_dsn.txt": v.uri("a")})
	dsn := secret.file("uri_dsn.txt")
	r := start(t, config(t, "configs:\n"+
		hotload("hot", dsn, "      - command: INSERT INTO seen(login, who) VALUES (session_user, 'hot')\n")+
		"  templated:\n    sources: [{driver: postgres, filename: "+dsn+"}]\n    destination: {driver: postgres, dsn: '{{ index . \""+dsn+"\" \"raw_dsn\" }}'}\n    commands: [{command: \"INSERT INTO seen(login, who) VALUES (session_user, 'templated')\"}]\n",
	).file("config.yaml"))
	a, b := v.name+"_a", v.name+"_b"
	v.holds(t, "SELECT login, who FROM seen ORDER BY login, who", a+"|hot,"+a+"|templated")
	secret.set(t, map[string]string{"uri_dsn.txt": v.uri("a") + "\n"})
	secret.set(t, map[string]string{"uri_dsn.txt": v.uri("b")})
	v.holds(t, "SELECT login, who FROM seen ORDER BY login, who", a+"|hot,"+a+"|templated,"+b+"|hot,"+b+"|templated")
	secret.set(t, map[string]string{"uri_dsn.txt": v.uri("b"), "more": ""})
	secret.set(t, map[string]string{"uri_dsn.txt": "postgres://half" + poison})
	r.says(t, "/healthz", "configs.hot: "+dsn+": the DSN cannot be used")
	secret.set(t, map[string]string{"uri_dsn.txt": v.uri("b")})
	r.says(t, "/healthz", "configs.hot: applied")
	if got := v.rows(t, "SELECT count(*) FROM seen"); got != "4" {
		t.Errorf("%s runs instead of 4", got)
	}
}

// PostgreSQL refuses these in a transaction; what ran before the refusal must
// not be there twice.
func TestStatementsThatNeedNoTransactionRunOneByOne(t *testing.T) {
	t.Parallel()
	v := newTenant(t)
	dsn := mount(t, map[string]string{"uri_dsn.txt": v.uri("a")}).file("uri_dsn.txt")
	v.server.Exec(t, v.name, `CREATE TABLE t(n int); ALTER TABLE t OWNER TO "`+v.name+`"`)
	r := start(t, config(t, "configs:\n"+hotload("alone", dsn,
		"      - {command: INSERT INTO t VALUES (1)}\n"+
			"      - {command: CREATE INDEX CONCURRENTLY i ON t(n)}\n"+
			"      - {command: 'INSERT INTO t VALUES ($1)', args: ['int:{{ 2 }}']}\n"+
			"      - {command: CREATE DATABASE "+v.name+"_more}\n"+
			"      - {command: VACUUM t}\n")).file("config.yaml"))
	r.says(t, "/healthz", "configs.alone: applied")
	if got := v.rows(t, "SELECT n FROM t ORDER BY n"); got != "1,2" {
		t.Errorf("rows %s", got)
	}
	if got := v.rows(t, "SELECT count(*) FROM pg_database WHERE datname = '"+v.name+"_more'") + v.rows(t, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass"); got != "1t" {
		t.Errorf("database and index: %s", got)
	}
	v.server.Exec(t, "", "DROP DATABASE "+v.name+"_more")
}

// All replicas see a rotation at the same moment.
func TestReplicasTakeTurns(t *testing.T) {
	t.Parallel()
	v := newTenant(t)
	v.server.Exec(t, v.name, `GRANT CREATE ON SCHEMA public TO "`+v.name+`"`)
	dsn := mount(t, map[string]string{"uri_dsn.txt": v.uri("a")}).file("uri_dsn.txt")
	file := config(t, "configs:\n"+hotload("same", dsn,
		"      - {command: CREATE TABLE IF NOT EXISTS once(n int)}\n      - {command: CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'}\n")).file("config.yaml")
	var replicas []*running
	for range 6 {
		replicas = append(replicas, start(t, file))
	}
	for _, r := range replicas {
		r.says(t, "/healthz", "configs.same: applied")
		if got := r.get(t, "/metrics"); strings.Contains(got, `result="failed"`) {
			t.Error(got)
		}
	}
}

func TestFprintfReplacesTheFileAtOnce(t *testing.T) {
	t.Parallel()
	v := newTenant(t)
	secret := mount(t, map[string]string{"uri_dsn.txt": v.uri("a")})
	dsn, out := secret.file("uri_dsn.txt"), filepath.Join(t.TempDir(), "out.conf")
	must(t, os.WriteFile(out, []byte("old"), 0o644))
	held, err := os.Open(out) // so that no later file gets its inode
	must(t, err)
	defer held.Close()
	before, err := held.Stat()
	must(t, err)
	r := start(t, config(t, "configs:\n  file:\n    sources: [{driver: postgres, filename: "+dsn+"}]\n    destination: {driver: fprintf, dsn: 'file://"+out+"'}\n    commands:\n"+
		"      - {command: \"user=%s port=%05d\\n\", args: ['{{ index . \""+dsn+"\" \"user\" }}', 'int:{{ index . \""+dsn+"\" \"port\" }}']}\n"+
		"      - {command: \"password=%s\\n\", args: ['{{ index . \""+dsn+"\" \"password\" }}']}\n"+
		"  wrong:\n    sources: [{driver: postgres, filename: "+dsn+"}]\n    destination: {driver: fprintf, dsn: 'file://"+out+".wrong'}\n    commands: [{command: \"%d\", args: ['{{ index . \""+dsn+"\" \"password\" }}']}]\n"+
		"  nowhere:\n    destination: {driver: fprintf, dsn: 'file:///proc/nosuch/x'}\n    commands: [{command: x}]\n").file("config.yaml"))
	for _, login := range []string{"a", "b"} {
		secret.set(t, map[string]string{"uri_dsn.txt": v.uri(login)})
		want := fmt.Sprintf("user=%s port=%05d\npassword=%s\n", v.name+"_"+login, v.server.Target().Port, poison+v.name+"_"+login)
		eventually(t, "the file", func() (bool, string) {
			got, _ := os.ReadFile(out)
			return string(got) == want, string(got)
		})
	}
	after, err := os.Stat(out)
	must(t, err)
	if after.Mode().Perm() != 0o600 || os.SameFile(before, after) {
		t.Errorf("mode %o, the same file as before: %t", after.Mode().Perm(), os.SameFile(before, after))
	}
	r.says(t, "/healthz", "configs.wrong: configs.wrong.commands[0]: the format and its arguments do not fit")
	r.says(t, "/healthz", "configs.nowhere: writing /proc/nosuch/x")
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), "*")); len(left) != 1 {
		t.Errorf("the folder holds %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), ".*")); len(left) != 0 {
		t.Errorf("the folder holds %v", left)
	}
}

func TestShelldbGetsThePasswordByEnvironment(t *testing.T) {
	t.Parallel()
	v := newTenant(t)
	secret := mount(t, map[string]string{"uri_dsn.txt": v.uri("a")})
	dsn, out := secret.file("uri_dsn.txt"), filepath.Join(t.TempDir(), "out")
	shell := func(name, script string) string {
		return "  " + name + ":\n    sources: [{driver: postgres, filename: " + dsn + "}]\n    destination: {driver: shelldb, dsn: '{{ index . \"" + dsn + "\" \"raw_dsn\" }}'}\n" +
			"    commands: [{command: /bin/sh, args: [-c, '" + script + "']}]\n"
	}
	r := start(t, config(t, "configs:\n"+
		shell("fine", `printf "%s@%s:%s/%s %s" "$PGUSER" "$PGHOST" "$PGPORT" "$PGDATABASE" "$PGPASSWORD" > `+out)+
		shell("fails", `echo "no $PGPASSWORD for $PGUSER"; exit 3`)+
		"  none:\n    destination: {driver: shelldb}\n    commands: [{command: nosuch-program}]\n").file("config.yaml"))
	want := fmt.Sprintf("%s_a@127.0.0.1:%d/%s %s", v.name, v.server.Target().Port, v.name, poison+v.name+"_a")
	eventually(t, "the output", func() (bool, string) {
		got, _ := os.ReadFile(out)
		return string(got) == want, string(got)
	})
	r.says(t, "/healthz", "configs.fails: configs.fails.commands[0]: exit status 3; what it said is not kept")
	r.says(t, "/healthz", "configs.none: configs.none.commands[0].command: there is no such program")
}

// Servers quote values in what they refuse.
func TestNothingTheServerQuotesIsShown(t *testing.T) {
	t.Parallel()
	v := newTenant(t)
	dsn := mount(t, map[string]string{"uri_dsn.txt": v.uri("a")}).file("uri_dsn.txt")
	password := `(index . "` + dsn + `" "password")`
	wrong := mount(t, map[string]string{"uri_dsn.txt": v.uri("a") + "x"}).file("uri_dsn.txt")
	refused := mount(t, map[string]string{"uri_dsn.txt": strings.Replace(v.uri("a"), v.name+"_a:", v.name+"_b:", 1)}).file("uri_dsn.txt")
	r := start(t, config(t, "configs:\n"+
		hotload("data", dsn, "      - {command: 'SELECT {{ literal "+password+" }}::int'}\n")+
		hotload("syntax", dsn, "      - {command: 'SELECT 1 {{ literal "+password+" }}'}\n")+
		hotload("raise", dsn, "      - {command: \"DO $x$ BEGIN RAISE 'see %', {{ literal "+strings.ReplaceAll(password, `"`, `\"`)+" }}; END $x$\"}\n")+
		hotload("column", dsn, "      - {command: 'SELECT {{ identifier "+password+" }}'}\n")+
		hotload("sslmode", wrong, "      - {command: SELECT 1}\n")+
		hotload("login", refused, "      - {command: SELECT 1}\n")).file("config.yaml"))
	r.says(t, "/healthz", "configs.data: configs.data.commands[0]: The server refuses a value (SQLSTATE 22P02).")
	r.says(t, "/healthz", "configs.syntax: configs.syntax.commands[0]: The server refuses the syntax (SQLSTATE 42601).")
	r.says(t, "/healthz", "configs.raise: configs.raise.commands[0]: The server says: see <hidden> (SQLSTATE P0001).")
	r.says(t, "/healthz", "configs.column: configs.column.commands[0]: The server says: column")
	r.says(t, "/healthz", "configs.sslmode: "+wrong+": the DSN cannot be used: sslmode must be one of")
	r.says(t, "/healthz", "configs.login: connecting for configs.login: The server says: password authentication failed")
}

func TestFollowsItsConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	touch := func(name string) string {
		return "configs: {" + name + ": {destination: {driver: shelldb}, commands: [{command: touch, args: [" + filepath.Join(dir, name) + "]}]}}"
	}
	there := func(name string) {
		eventually(t, name, func() (bool, string) {
			_, err := os.Stat(filepath.Join(dir, name))
			return err == nil, fmt.Sprint(err)
		})
	}
	secret := mount(t, map[string]string{"other": ""})
	r := start(t, secret.file("config.yaml"))
	r.says(t, "/healthz", "configuration: "+secret.file("config.yaml")+" is not there yet")
	secret.set(t, map[string]string{"config.yaml": touch("one")})
	there("one")
	secret.set(t, map[string]string{"config.yaml": "configs: {one: {nosuch: " + "hunter2" + "}}"})
	r.says(t, "/healthz", "configuration: "+secret.file("config.yaml")+": configs.one.nosuch: unknown key")
	r.says(t, "/healthz", "configs.one: applied")
	r.says(t, "/metrics", "berth_dsnexec_configuration_valid 0")
	secret.set(t, map[string]string{"config.yaml": touch("two")})
	there("two")
	r.says(t, "/metrics", "berth_dsnexec_configuration_valid 1")
}

// The program itself: told to stop while a statement runs, it ends with 0, and
// the statement ends with it.
func TestSIGTERMEndsIt(t *testing.T) {
	t.Parallel()
	v := newTenant(t)
	program := filepath.Join(t.TempDir(), "berth-agent")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "github.com/berth-dev/berth/cmd/berth-agent").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	secret := mount(t, map[string]string{"uri_dsn.txt": v.uri("a")})
	dsn := secret.file("uri_dsn.txt")
	said := &log{}
	p, err := process.Start(process.Spec{Path: program, Log: said, Args: []string{
		"dsnexec", "run", "--address", "127.0.0.1:0", "-e", "sleep", "-d", "never", "--config-file",
		config(t, "configs:\n  never: {destination: {driver: shelldb}, commands: [{command: nosuch}]}\n"+hotload("sleep", dsn, "      - command: SELECT pg_sleep(600)\n    disabled: true\n")).file("config.yaml"),
	}})
	must(t, err)
	defer func() { must(t, p.Stop(0)) }()
	sleeping := "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(600)' AND datname = '" + v.name + "'"
	v.holds(t, sleeping, "1")
	must(t, syscall.Kill(p.Pid(), syscall.SIGTERM))
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
	if p.Err() != nil {
		t.Errorf("it ended with %v: %s", p.Err(), said)
	}
	v.holds(t, sleeping, "0")
	if strings.Contains(said.String(), "hunt") || strings.Contains(said.String(), "never") {
		t.Error(said)
	}
}
