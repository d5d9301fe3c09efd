package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/process"
)

// Tools are the programs of the source's major version.
type Tools struct{ Dump, Restore string }

// archive is a dump of the source's schema in a folder of its own.
type archive struct {
	tools Tools
	dir   string
}

// dump writes the schema of s, without the migration's own, to a new archive.
// The password goes through a file that only this account can read.
func dump(ctx context.Context, tools Tools, s Side, name string) (*archive, error) {
	dir, err := os.MkdirTemp("", "berth-schema-") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("making a folder for the schema: %w", err)
	}
	a := &archive{tools, dir}
	conninfo, err := a.credential(s.Admin)
	if err == nil {
		_, err = a.run(ctx, tools.Dump, "-d", conninfo, "-Fc", "--schema-only", "--no-publications", "--no-subscriptions",
			"--exclude-schema="+name, "-f", a.file())
	}
	if err != nil {
		a.close()
		return nil, fmt.Errorf("dumping the schema of %s: %w", s.Admin.Address(), err)
	}
	return a, nil
}

func (a *archive) file() string { return filepath.Join(a.dir, "schema") }

func (a *archive) close() { _ = os.RemoveAll(a.dir) } // a temporary folder

// credential is a connection string without a password, which stands in a file.
func (a *archive) credential(t postgres.Target) (string, error) {
	pass := filepath.Join(a.dir, "pass")
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`)
	if err := os.WriteFile(pass, []byte("*:*:*:*:"+escape.Replace(t.Password)+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("writing the password file: %w", err)
	}
	t.Password = ""
	conninfo := t.KeyValue() + " application_name='berth migration' connect_timeout=5 passfile='" + pass + "'"
	if len(t.RootCA) > 0 {
		root := filepath.Join(a.dir, "root.crt")
		if err := os.WriteFile(root, t.RootCA, 0o600); err != nil {
			return "", fmt.Errorf("writing the authority's certificate: %w", err)
		}
		conninfo += " sslrootcert='" + root + "'"
	}
	return conninfo, nil
}

// run gives the program's output; its error carries the end of what it said.
func (a *archive) run(ctx context.Context, program string, args ...string) (string, error) {
	out := filepath.Join(a.dir, "out")
	var log bytes.Buffer
	err := process.Run(ctx, process.Spec{Path: program, Args: args, Dir: a.dir, Env: []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}, Log: &log})
	if err != nil {
		said := strings.TrimSpace(log.String())
		return "", errors.Join(fmt.Errorf("%s: %w", filepath.Base(program), err), errors.New(said[max(0, len(said)-300):]))
	}
	text, err := os.ReadFile(out)
	if errors.Is(err, os.ErrNotExist) {
		return log.String(), nil
	}
	return string(text), errors.Join(err, os.Remove(out))
}

// entry is one line of an archive's table of contents.
type entry struct {
	catalog, oid uint32
	kind         string // the line from its kind on
	line         string
}

func (a *archive) entries(ctx context.Context) ([]entry, error) {
	list, err := a.run(ctx, a.tools.Restore, "-l", "--section=post-data", a.file())
	if err != nil {
		return nil, fmt.Errorf("listing the schema: %w", err)
	}
	var out []entry
	for line := range strings.Lines(list) {
		line = strings.TrimRight(line, "\n")
		fields := strings.SplitN(line, " ", 4)
		if strings.HasPrefix(line, ";") || len(fields) < 4 {
			continue
		}
		catalog, err1 := strconv.ParseUint(fields[1], 10, 32)
		oid, err2 := strconv.ParseUint(fields[2], 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("listing the schema: %w", err)
		}
		out = append(out, entry{uint32(catalog), uint32(oid), fields[3], line})
	}
	return out, nil
}

// script is the SQL of some entries, or of a section. Lines for psql are left
// out: they only guard against a dump that holds such lines itself.
func (a *archive) script(ctx context.Context, section string, entries []entry) (string, error) {
	args := []string{"-f", filepath.Join(a.dir, "out"), "--section=" + section}
	if entries != nil {
		list := filepath.Join(a.dir, "list")
		var text strings.Builder
		for _, e := range entries {
			text.WriteString(e.line + "\n")
		}
		if err := os.WriteFile(list, []byte(text.String()), 0o600); err != nil {
			return "", fmt.Errorf("writing a list: %w", err)
		}
		args = append(args, "-L", list)
	}
	text, err := a.run(ctx, a.tools.Restore, append(args, a.file())...)
	if err != nil {
		return "", fmt.Errorf("reading the schema: %w", err)
	}
	lines := strings.Split(text, "\n")
	kept := lines[:0]
	for _, line := range lines {
		if !strings.HasPrefix(line, `\restrict `) && !strings.HasPrefix(line, `\unrestrict `) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n"), nil
}
