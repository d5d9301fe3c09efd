package restore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/berth-dev/berth/agent/s3"
)

// Verdict is what a run found out about a backup.
type Verdict string

// A run that could not be carried through has no verdict: it says nothing
// about the backup, and another run may.
const (
	Verified Verdict = "verified" // all of it came back, and every check passed
	Degraded Verdict = "degraded" // it runs, and something about it is doubtful or unknown
	Failed   Verdict = "failed"   // it is broken
)

// Reason is the cause of a failure, in one word.
type Reason string

// Reasons. Those of the backup itself make a verdict; the others do not.
const (
	SnapshotMissing    Reason = "SnapshotMissing"    // the backup: it is not in the repository
	SnapshotIncomplete Reason = "SnapshotIncomplete" // the backup: it was never finished, or lacks data
	RepositoryCorrupt  Reason = "RepositoryCorrupt"  // the backup: its blobs are missing or damaged
	NoDatabase         Reason = "NoDatabase"         // the backup: no data directory, or no table in it
	RecoveryFailed     Reason = "RecoveryFailed"     // the backup: PostgreSQL does not come up on it
	CheckFailed        Reason = "CheckFailed"        // the backup: it came up, and a check failed

	CredentialsDenied     Reason = "CredentialsDenied"
	RepositoryUnreachable Reason = "RepositoryUnreachable"
	RepositoryUnusable    Reason = "RepositoryUnusable" // wrong password, or none there
	NoSpace               Reason = "NoSpace"
	ServerMissing         Reason = "ServerMissing" // no PostgreSQL of that major here
	Unsuitable            Reason = "Unsuitable"    // the job, or this machine
	Interrupted           Reason = "Interrupted"
)

var ofTheBackup = []Reason{SnapshotMissing, SnapshotIncomplete, RepositoryCorrupt, NoDatabase, RecoveryFailed, CheckFailed}

// Fault is a failure whose cause is known.
type Fault struct {
	Reason Reason
	Err    error
}

func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap gives the cause.
func (f *Fault) Unwrap() error { return f.Err }

func fault(reason Reason, format string, args ...any) error {
	return &Fault{reason, fmt.Errorf(format, args...)}
}

// Status is how a check ended.
type Status string

// Passed and Broken are certain. Doubtful is neither, and so is what did not run.
const (
	Passed   Status = "passed"
	Doubtful Status = "doubtful"
	Broken   Status = "failed"
)

// Check is one question that was put to the backup.
type Check struct {
	Name    string  `json:"name"`
	Status  Status  `json:"status"`
	Message string  `json:"message,omitempty"`
	Seconds float64 `json:"seconds"`
}

// The checks that every verified backup has passed. Assertions come besides.
const (
	CheckComplete  = "complete"  // every file of the snapshot came, with its size, and the source could read all of them
	CheckMoment    = "moment"    // the files are of one moment, or PostgreSQL was told how to make them so
	CheckRecovery  = "recovery"  // PostgreSQL came up without help
	CheckStructure = "structure" // pg_amcheck finds nothing
	CheckRows      = "rows"      // there are tables, and each gives rows
)

var required = []string{CheckComplete, CheckMoment, CheckRecovery, CheckStructure, CheckRows}

// Fixes say what was changed to make it run.
type Fixes struct {
	Locales       []string `json:"locales,omitempty"` // unknown here, replaced
	Reindexed     int      `json:"reindexed,omitempty"`
	ResetWAL      bool     `json:"resetWAL,omitempty"`
	Slots         int      `json:"slots,omitempty"` // replication slots dropped
	Subscriptions int      `json:"subscriptions,omitempty"`
	Passwords     int      `json:"passwords,omitempty"` // of the source, removed
}

// Database is one that came back.
type Database struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	Tables int    `json:"tables"`
}

// Result is all that a run found. It holds no secret and no data.
type Result struct {
	Run        string  `json:"run,omitempty"`
	Verdict    Verdict `json:"verdict,omitempty"`
	Reason     Reason  `json:"reason,omitempty"`
	Message    string  `json:"message,omitempty"`
	Retry      bool    `json:"retry"` // whether another run may end otherwise
	SnapshotID string  `json:"snapshotId,omitempty"`

	SnapshotAt time.Time  `json:"snapshotAt,omitzero"` // when the snapshot began: no data is newer
	StartedAt  time.Time  `json:"startedAt"`
	EndedAt    time.Time  `json:"endedAt"`
	Version    int        `json:"version,omitempty"` // PostgreSQL's major
	DataDir    string     `json:"dataDir,omitempty"`
	Files      int        `json:"files,omitempty"`
	Bytes      int64      `json:"bytes,omitempty"`
	Databases  []Database `json:"databases,omitempty"`
	Fixes      Fixes      `json:"fixes"`
	Checks     []Check    `json:"checks,omitempty"`

	FetchSeconds    float64    `json:"fetchSeconds"`
	RecoverySeconds float64    `json:"recoverySeconds"` // from PostgreSQL's start to its first answer
	Traffic         *s3.Totals `json:"traffic,omitempty"`
}

// Decide concludes r from its checks and from what ended the run. Verified
// takes every required check, passed, and no reset of the log.
func Decide(r Result, err error) Result {
	r.Verdict, r.Reason, r.Message, r.Retry = "", "", "", false
	var f *Fault
	switch {
	case errors.As(err, &f):
		r.Reason, r.Message = f.Reason, f.Error()
		if slices.Contains(ofTheBackup, f.Reason) {
			r.Verdict = Failed
			return r
		}
		r.Retry = f.Reason != Unsuitable && f.Reason != ServerMissing && f.Reason != RepositoryUnusable
		return r
	case err != nil:
		r.Reason, r.Message, r.Retry = Unsuitable, err.Error(), true
		return r
	}
	r.Verdict = Verified
	var doubts []string
	for _, c := range r.Checks {
		switch c.Status {
		case Passed:
		case Broken:
			r.Verdict, r.Reason, r.Message = Failed, CheckFailed, c.Name+": "+c.Message
			return r
		default:
			doubts = append(doubts, c.Name+": "+c.Message)
		}
	}
	for _, name := range required {
		if !slices.ContainsFunc(r.Checks, func(c Check) bool { return c.Name == name }) {
			doubts = append(doubts, name+": not checked")
		}
	}
	if r.Fixes.ResetWAL {
		doubts = append(doubts, "pg_resetwal was used: changes may be lost or half done")
	}
	if len(doubts) > 0 {
		r.Verdict, r.Message = Degraded, strings.Join(doubts, "; ")
	}
	return r
}
