package restore

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// ended explains a server that is gone. One that was killed says nothing about
// its data.
func (s *server) ended(doing string, err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return &Fault{Interrupted, fmt.Errorf("%s PostgreSQL %d: it was ended by signal %d", doing, s.major, status.Signal())}
		}
	}
	return fault(RecoveryFailed, "%s PostgreSQL %d: %s", doing, s.major, s.log.reason())
}

// trouble tells checks that failed for the machine's sake from those that found
// something.
func (s *server) trouble(checks []Check) error {
	select {
	case <-s.process.Done():
		return s.ended("checking", s.process.Err())
	default:
	}
	for _, c := range checks {
		if err := s.blame(fault(CheckFailed, "%s: %s", c.Name, c.Message)); c.Status == Broken && !isOf(err, CheckFailed) {
			return err
		}
	}
	return nil
}

func isOf(err error, reason Reason) bool {
	var f *Fault
	return errors.As(err, &f) && f.Reason == reason
}

// blame finds the machine's part in a failure: what ran out here says nothing
// about the backup.
func (s *server) blame(err error) error {
	var f *Fault
	if s.log == nil || !errors.As(err, &f) || !slices.Contains(ofTheBackup, f.Reason) {
		return err
	}
	text := s.log.String() + err.Error()
	for _, sign := range []struct {
		text   string
		reason Reason
	}{
		{"No space left on device", NoSpace}, {"Disk quota exceeded", NoSpace}, {"File too large", NoSpace},
		{"Cannot allocate memory", Interrupted}, {"out of memory", Interrupted}, {"Too many open files", Interrupted},
		{"terminated by signal 9", Interrupted}, {stillInUse, Interrupted}, {"Permission denied", Unsuitable},
	} {
		if strings.Contains(text, sign.text) {
			return &Fault{sign.reason, err}
		}
	}
	return err
}

// told keeps what the server said. pgx puts the address before it.
func told(err error) error {
	var said *pgconn.PgError
	var refused *pgconn.ConnectError
	switch {
	case errors.As(err, &said):
		return said
	case errors.As(err, &refused):
		return refused.Unwrap()
	}
	return err
}

// logTail keeps the end of a server's log.
type logTail struct {
	mu   sync.Mutex
	text []byte
}

func (l *logTail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if len(l.text) > 64<<10 {
		l.text = bytes.Clone(l.text[len(l.text)-32<<10:])
	}
	return len(p), nil
}

func (l *logTail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

var logHead = regexp.MustCompile(`^.*?(FATAL|PANIC|ERROR): +`)

// turnedAway begins what clients are told that come too early.
const turnedAway = "the database system is "

// reason is the last complaint in the log, without its time and process.
func (l *logTail) reason() string {
	complaint := "it ended without a word"
	for line := range strings.SplitSeq(l.String(), "\n") {
		if head := logHead.FindString(line); head != "" && !strings.HasPrefix(line[len(head):], turnedAway) {
			complaint = strings.TrimSpace(line[len(head):])
		}
	}
	return complaint[:min(len(complaint), 300)]
}
