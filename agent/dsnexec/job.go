package dsnexec

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-dev/berth/postgres"
)

// job is a config with its templates filled in: what has to be done, in full.
type job struct {
	name   string
	driver string
	target postgres.Target // of SQL, and of what a program finds in PG*
	path   string          // of fprintf
	calls  []call
	digest [sha256.Size]byte // of all of the above
}

// call is one command; key is its place in the configuration.
type call struct {
	key  string
	text string
	args []any
}

// prepare reads the sources of c and fills its templates in. What it returns
// beside the job hides every value that must not be shown, also in its error.
func prepare(c Config) (j job, hide *strings.Replacer, err error) {
	files := snapshot{}
	context := map[string]any{}
	var secrets []string
	defer func() { hide = hiding(secrets) }()
	for _, s := range c.Sources {
		values, found, err := s.values(files)
		secrets = append(secrets, found...)
		if err != nil {
			return job{}, nil, err
		}
		context[s.Filename] = values
	}
	j = job{name: c.Name, driver: c.Destination.Driver}
	key := "configs." + c.Name
	dsn, err := fill(key+".destination.dsn", c.Destination.DSN, context)
	if err != nil {
		return job{}, nil, err
	}
	found, err := j.aim(c, dsn, files)
	secrets = append(secrets, found...)
	if err != nil {
		return job{}, nil, fmt.Errorf("%s.destination.dsn: %w", key, err)
	}
	for i, command := range c.Commands {
		at := fmt.Sprintf("%s.commands[%d]", key, i)
		done := call{key: at}
		if done.text, err = fill(at+".command", command.Text, context); err != nil {
			return job{}, nil, err
		}
		for n, arg := range command.Args {
			value, err := fillArg(fmt.Sprintf("%s.args[%d]", at, n), arg, context)
			if err != nil {
				return job{}, nil, err
			}
			done.args = append(done.args, value)
		}
		j.calls = append(j.calls, done)
	}
	j.digest = j.sum()
	return j, nil, nil
}

// aim sets where the job goes, and returns the secrets that are in there.
func (j *job) aim(c Config, dsn string, files snapshot) (secrets []string, err error) {
	beside := ""
	switch j.driver {
	case "fprintf":
		path, err := filePath(dsn, "file", "")
		j.path = inTemporary(path)
		return nil, err
	case "hotload":
		if beside, err = filePath(dsn, "fsnotify", "postgres"); err != nil {
			return nil, err
		}
		content, err := files.read(beside)
		if err != nil {
			return nil, err
		}
		dsn = strings.TrimSpace(string(content))
	case "shelldb":
		if dsn == "" {
			return nil, nil
		}
	}
	if j.target, err = postgres.ParseDSN(dsn); err != nil {
		return []string{dsn}, err
	}
	if beside != "" {
		j.target.RootCA = files.authority(beside)
	}
	for _, s := range c.Sources {
		if len(j.target.RootCA) == 0 && s.Driver == "postgres" {
			j.target.RootCA = files.authority(s.Filename)
		}
	}
	return []string{dsn, j.target.Password}, nil
}

// sum covers every value with its type and place; the target's own printing
// leaves the password out, so its parts are listed.
func (j *job) sum() [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q", j.driver, j.path, j.target.URI(), j.target.RootCA)
	for _, c := range j.calls {
		fmt.Fprintf(h, "\n%q", c.text)
		for _, arg := range c.args {
			fmt.Fprintf(h, " %T:%q", arg, fmt.Sprint(arg))
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// apply does the job; its error names the command that failed, and may hold
// values that still have to be hidden.
func (j *job) apply(ctx context.Context) error {
	switch j.driver {
	case "fprintf":
		return j.write()
	case "shelldb":
		return j.execute(ctx)
	default:
		return j.query(ctx)
	}
}

// shortestSecret keeps single letters of a file from blanking every message.
const shortestSecret = 3

// hiding replaces each secret, in the forms that it may be quoted in, by
// <hidden>; longer ones first, since a DSN holds its password.
func hiding(secrets []string) *strings.Replacer {
	var forms []string
	for _, s := range secrets {
		forms = append(forms, s, url.QueryEscape(s), url.PathEscape(s), strings.ReplaceAll(s, "'", "''"), strings.Trim(fmt.Sprintf("%q", s), `"`))
	}
	slices.SortFunc(forms, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	var pairs []string
	for _, form := range slices.Compact(forms) {
		if len(form) >= shortestSecret {
			pairs = append(pairs, form, "<hidden>")
		}
	}
	return strings.NewReplacer(pairs...)
}

// inTemporary gives the folder /$tmp of db-controller its meaning.
func inTemporary(path string) string {
	if rest, ok := strings.CutPrefix(path, "/$tmp/"); ok {
		return filepath.Join(os.TempDir(), rest)
	}
	return path
}
