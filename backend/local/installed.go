package local

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/berth-dev/berth/process"
)

// versionTimeout bounds how long a program may take to say its version.
const versionTimeout = 10 * time.Second

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)\.(\d+)`)

// installed asks each <major>/bin/postgres under bin for its version.
func installed(bin string) (map[int]int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	programs, err := filepath.Glob(filepath.Join(bin, "*", "bin", "postgres"))
	if err != nil {
		return nil, fmt.Errorf("listing versions in %s: %w", bin, err)
	}
	majors := map[int]int{}
	for _, program := range programs {
		folder, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(program))))
		if err != nil {
			continue
		}
		var out bytes.Buffer
		if err := process.Run(ctx, process.Spec{Path: program, Args: []string{"--version"}, Env: environment, Log: &out}); err != nil {
			return nil, fmt.Errorf("asking %s for its version: %w", program, err)
		}
		found := versionLine.FindSubmatch(out.Bytes())
		if found == nil || string(found[1]) != strconv.Itoa(folder) {
			return nil, fmt.Errorf("reading version of %s: it is not PostgreSQL %d", program, folder)
		}
		majors[folder], _ = strconv.Atoi(string(found[2])) // the pattern holds digits alone
	}
	if len(majors) == 0 {
		return nil, fmt.Errorf("finding PostgreSQL: no %s", filepath.Join(bin, "<major>", "bin", "postgres"))
	}
	return majors, nil
}

func (b *Backend) program(major int, name string) string {
	return filepath.Join(b.options.Bin, strconv.Itoa(major), "bin", name)
}

// environment is all that PostgreSQL gets: PG* variables of whoever started
// berth change nothing, and messages are in English.
var environment = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
