// Package restore brings a PostgreSQL data directory up from a kopia snapshot
// and says whether the backup is good: verified, degraded or failed.
//
// It works on one folder, can be killed at any moment and started again, and
// leaves a server that is stopped and ready to run. It links kopia, so it has
// a binary of its own; it knows no Kubernetes.
package restore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/agent/s3"
)

// Job says what to restore and what to make of it. It holds no secret: those
// are in files that it names.
type Job struct {
	Run        string     `yaml:"run"` // names this run in the result
	Repository Repository `yaml:"repository"`
	Snapshot   Choice     `yaml:"snapshot"`
	Target     string     `yaml:"target"`   // a folder for this worker alone
	Programs   string     `yaml:"programs"` // holds <major>/bin/postgres
	Account    string     `yaml:"account"`  // runs PostgreSQL; only root may choose one
	Parallel   int        `yaml:"parallel"` // files at once; zero fits the machine
	CacheBytes int64      `yaml:"cacheBytes"`
	Result     string     `yaml:"result"` // file that gets the result too

	DataPath      string            `yaml:"dataPath"`      // of the data directory in the snapshot; empty: it is found
	ReadOnly      bool              `yaml:"readOnly"`      // sessions begin read-only
	KeepPasswords bool              `yaml:"keepPasswords"` // of the source's logins; else nobody logs in with them
	AllowReset    bool              `yaml:"allowReset"`    // pg_resetwal when nothing else helps
	Settings      map[string]string `yaml:"settings"`      // postgresql.conf, over the worker's
	Logins        []Login           `yaml:"logins"`
	Checks        Checks            `yaml:"checks"`
}

// Repository says where snapshots are: in S3, or in a folder.
type Repository struct {
	Folder       string  `yaml:"folder"`
	S3           *Bucket `yaml:"s3"`
	PasswordFile string  `yaml:"passwordFile"` // empty: the broker knows it
}

// Bucket is a repository in S3. Its keys come from a broker, or from files.
type Bucket struct {
	s3.Bucket `yaml:",inline"`
	Broker    *s3.Broker `yaml:"broker"`
	KeysDir   string     `yaml:"keysDir"` // files accessKeyId, secretAccessKey and, perhaps, sessionToken
}

// Choice picks a snapshot: by id, or the newest whole one that every pattern
// matches. In patterns * is any text and ? any letter.
type Choice struct {
	ID          string            `yaml:"id"`
	Host        string            `yaml:"host"`
	Path        string            `yaml:"path"`
	Description string            `yaml:"description"`
	Tags        map[string]string `yaml:"tags"`
}

// Login is made on the restored server, or altered.
type Login struct {
	Name         string `yaml:"name"`
	VerifierFile string `yaml:"verifierFile"` // holds a SCRAM verifier; the password stays with who made it
	Superuser    bool   `yaml:"superuser"`    // else it may read all data
}

// Checks say what is asked of the restored server. Structure is checked unless
// it is skipped, and without it nothing is called verified.
type Checks struct {
	SkipStructure bool          `yaml:"skipStructure"`
	Timeout       time.Duration `yaml:"timeout"` // for the structure; zero is 2 h
	Assertions    []Assertion   `yaml:"assertions"`
}

// Assertion is a statement that must give one row with one true boolean.
type Assertion struct {
	Name     string `yaml:"name"`
	Database string `yaml:"database"` // empty: the largest
	SQL      string `yaml:"sql"`
}

// ErrJob is in the chain of each error about what a job says.
var ErrJob = errors.New("the job is not usable")

// ReadJob reads a job file. Unknown fields are errors.
func ReadJob(path string) (Job, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Job{}, fmt.Errorf("%w: reading it: %w", ErrJob, err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	var j Job
	if err := decoder.Decode(&j); err != nil {
		return Job{}, fmt.Errorf("%w: reading it: %w", ErrJob, err)
	}
	return j, j.complete()
}

// complete checks j and fills in what is left to the machine.
func (j *Job) complete() error {
	var problems []error
	refuse := func(bad bool, text string) {
		if bad {
			problems = append(problems, errors.New(text))
		}
	}
	refuse(!filepath.IsAbs(j.Target) || filepath.Clean(j.Target) == "/", "target must be an absolute path of a folder")
	refuse(!filepath.IsAbs(j.Programs), "programs must be an absolute path")
	refuse((j.Repository.Folder == "") == (j.Repository.S3 == nil), "repository needs exactly one of folder and s3")
	refuse(j.Repository.S3 != nil && (j.Repository.S3.Broker == nil) == (j.Repository.S3.KeysDir == ""), "repository.s3 needs exactly one of broker and keysDir")
	refuse(j.Repository.PasswordFile == "" && (j.Repository.S3 == nil || j.Repository.S3.Broker == nil), "repository.passwordFile is needed without a broker")
	refuse(j.DataPath != "" && !filepath.IsLocal(j.DataPath), "dataPath must be a path inside the snapshot")
	refuse(j.Parallel < 0 || j.Parallel > 64, "parallel must be 0 to 64")
	refuse(j.CacheBytes != 0 && j.CacheBytes < 64<<20, "cacheBytes must be 0 or at least 67108864")
	for name := range j.Settings {
		refuse(!settingName.MatchString(name) || slices.Contains(ours, name), "settings."+name+" cannot be set")
	}
	for _, l := range j.Logins {
		refuse(l.Name == "" || len(l.Name) > 63 || l.VerifierFile == "", "logins need a name of at most 63 bytes and a verifierFile")
	}
	for _, a := range j.Checks.Assertions {
		refuse(a.Name == "" || a.SQL == "", "checks.assertions need a name and sql")
	}
	if j.Parallel == 0 {
		// Files wait for the network more than they compute.
		j.Parallel = min(max(4*runtime.GOMAXPROCS(0), 4), 16)
	}
	if j.Checks.Timeout == 0 {
		j.Checks.Timeout = 2 * time.Hour
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %w", ErrJob, errors.Join(problems...))
	}
	return nil
}

var (
	settingName = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?$`)

	// ours are settings that decide where the server is and who gets in.
	ours = []string{"data_directory", "hba_file", "ident_file", "listen_addresses", "port", "unix_socket_directories",
		"external_pid_file", "archive_command", "archive_library", "restore_command", "primary_conninfo", "fsync"}
)
