// Command bench measures berth on this machine and prints one table: each row
// is a promise with what must be reached and what was.
//
// It starts all it needs, a control plane and PostgreSQL on 127.0.0.1, anew for
// each row, and the controller as users run it: bin/berth in a process of its
// own. It compares only within one run; it keeps no history.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/berth-dev/berth/process"
)

// bench is what all rows of one run share.
type bench struct {
	root    string // of the repository, with bin/ as made by `make tools`
	dir     string // every row keeps its state in a folder of its own in here
	program string // the berth that is measured
	size    size
	say     func(format string, args ...any)
}

// experiment measures one row.
type experiment struct {
	name    string
	measure func(context.Context, *bench) (row, error)
}

var experiments = []experiment{
	{"claims", measureClaims},
	{"writes", measureWrites},
	{"scale", measureScale},
	{"rotation", measureRotation},
	{"deadserver", measureDeadServer},
	{"proxyrate", measureProxyRate},
	{"proxylatency", measureProxyLatency},
	{"proxyrotation", measureProxyRotation},
	{"proxymemory", measureProxyMemory},
	{"proxytakeover", measureProxyTakeover},
	{"composite", measureComposite},
	{"orgs", measureOrgs},
	{"status", measureStatus},
	{"activation", measureActivation},
}

// rowTimeout is more than any row takes whose figures are worth having.
const rowTimeout = 20 * time.Minute

func (e experiment) bounded(ctx context.Context, b *bench) (row, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, rowTimeout, fmt.Errorf("it was not done within %s", rowTimeout))
	defer cancel()
	return e.measure(ctx, b)
}

type options struct {
	only, markdown, dir string
	quick               bool
}

func main() {
	if err := command(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(args []string, out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	return run(ctx, o, out)
}

func parse(args []string) (options, error) {
	var o options
	names := make([]string, len(experiments))
	for i, e := range experiments {
		names[i] = e.name
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.only, "only", "", "measure one row: "+strings.Join(names, ", "))
	flags.BoolVar(&o.quick, "quick", false, "tiny sizes, to see that all works; the figures mean nothing")
	flags.StringVar(&o.markdown, "markdown", "", "also put the table between the markers of this file")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "folder on the disk to measure on")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.markdown != "" && (o.quick || o.only != "") {
		return o, errors.New("the table of a document has every row in full size: leave out -quick and -only")
	}
	return o, nil
}

func run(ctx context.Context, o options, out io.Writer) error {
	began := time.Now()
	b := &bench{root: ".", dir: o.dir, size: full, say: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}}
	if o.quick {
		b.size = quick
	}
	if err := b.build(ctx); err != nil {
		return err
	}
	m, err := readMachine(ctx, b)
	if err != nil {
		return err
	}
	var rows []row
	for _, e := range experiments {
		if o.only != "" && o.only != e.name {
			continue
		}
		b.say("%s", e.name)
		r, err := e.bounded(ctx, b)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", e.name, err)
		}
		rows = append(rows, r)
	}
	if len(rows) == 0 {
		return fmt.Errorf("finding row %s: there is none of that name", o.only)
	}
	report := render(rows) + "\n" + m.String()
	if o.markdown != "" {
		if err := rewrite(o.markdown, report); err != nil {
			return err
		}
	}
	_, err = fmt.Fprint(out, report)
	return err
}

// bin is a program that was made by make.
func (b *bench) bin(name ...string) string {
	return filepath.Join(append([]string{b.root, "bin"}, name...)...)
}

// build brings the programs up to date, so that what is measured is what is read.
func (b *bench) build(ctx context.Context) error {
	root, err := filepath.Abs(b.root)
	if err != nil {
		return fmt.Errorf("resolving folder: %w", err)
	}
	if _, err := os.Stat(filepath.Join(root, "bin", "k8s", "kube-apiserver")); err != nil {
		return fmt.Errorf("finding kube-apiserver (run in the repository, after: make tools): %w", err)
	}
	b.root = root
	b.program = b.bin("berth")
	b.say("building %s and berth-agent", b.program)
	compiler, err := lookGo()
	if err != nil {
		return err
	}
	var log strings.Builder
	err = process.Run(ctx, process.Spec{
		Path: compiler, Args: []string{"build", "-buildvcs=false", "-o", b.bin("") + "/", "./cmd/berth", "./cmd/berth-agent"},
		Env: append(os.Environ(), "CGO_ENABLED=0"), Dir: root, Log: &log,
	})
	if err != nil {
		return fmt.Errorf("building berth: %w\n%s", err, log.String())
	}
	return nil
}
