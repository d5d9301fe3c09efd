package step

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// messageLimit bounds what a condition or event may say, in bytes; the API
// refuses event notes over 1 kB and condition messages over 32 kB.
const messageLimit = 1000

type verdict int

const (
	done verdict = iota
	waiting
	blocked
	failed
)

// Outcome says how a step ended. The zero value is Done.
type Outcome struct {
	verdict         verdict
	reason, message string
	after           time.Duration
	err             error
	notes           []note
}

type note struct{ reason, message string }

// Done lets the next step run.
func Done() Outcome { return Outcome{} }

// Wait stops here until something watched changes, or until after has passed;
// after 0 waits for the watch alone.
func Wait(after time.Duration, reason, format string, args ...any) Outcome {
	return Outcome{verdict: waiting, reason: reason, message: bounded(format, args...), after: after}
}

// Blocked stops here until a person changes something; waiting does not help.
func Blocked(reason, format string, args ...any) Outcome {
	return Outcome{verdict: blocked, reason: reason, message: bounded(format, args...)}
}

// Failed stops here and retries with backoff. The error's text becomes the
// condition's message: it must be stable and free of secrets.
func Failed(reason string, err error) Outcome {
	return Outcome{verdict: failed, reason: reason, message: bounded("%s", err), err: err}
}

// Again asks for another look after d, whatever the outcome.
func (o Outcome) Again(d time.Duration) Outcome {
	o.after = d
	return o
}

// Note adds an event that tells what this step just did, for facts that no
// condition keeps, such as how many sessions a revocation ended.
func (o Outcome) Note(reason, format string, args ...any) Outcome {
	o.notes = append(o.notes, note{reason, bounded(format, args...)})
	return o
}

// IsDone reports whether the step reached what it is for.
func (o Outcome) IsDone() bool { return o.verdict == done }

// Text is the outcome in words: its reason, and what it says to people.
func (o Outcome) Text() string {
	if o.IsDone() {
		return ""
	}
	return o.reason + ": " + o.message
}

func bounded(format string, args ...any) string {
	text := strings.ToValidUTF8(fmt.Sprintf(format, args...), "?")
	if len(text) <= messageLimit {
		return text
	}
	cut := messageLimit - len("…")
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
