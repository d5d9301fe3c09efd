package dsnexec

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"github.com/berth-dev/berth/process"
)

// execute runs each command as a program, with the destination in libpq's
// environment variables. The first that fails ends the job. What a program
// prints is discarded: it may show a password in a form that nobody recognises.
func (j *job) execute(ctx context.Context) error {
	for _, c := range j.calls {
		path, err := exec.LookPath(c.text)
		if err != nil {
			return fmt.Errorf("%s.command: there is no such program", c.key)
		}
		args := make([]string, len(c.args))
		for i, arg := range c.args {
			args[i] = fmt.Sprint(arg)
		}
		if err := process.Run(ctx, process.Spec{Path: path, Args: args, Env: append(os.Environ(), j.environment()...)}); err != nil {
			return fmt.Errorf("%s: %w; what it said is not kept, since it may hold a password", c.key, err)
		}
	}
	return nil
}

func (j *job) environment() []string {
	t := j.target
	if t.Host == "" {
		return nil
	}
	return []string{
		"PGHOST=" + t.Host, "PGPORT=" + strconv.Itoa(int(t.Port)), "PGUSER=" + t.User,
		"PGPASSWORD=" + t.Password, "PGDATABASE=" + t.Database, "PGSSLMODE=" + cmp.Or(t.SSLMode, "prefer"),
	}
}
