// Package wire is what a proxy and the switchboard say to each other, as JSON
// over HTTPS. It is the contract between versions: a field that is not known is
// ignored, and none changes its meaning. docs/switchboard.md explains it.
package wire

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"
)

// Version of this contract.
const Version = 1

// Path takes hellos; reports go to Path/{session}/reports.
const Path = "/v1/proxies"

// Audience of the token that says which pod a proxy is.
const Audience = "berth.dev"

// Times and sizes that both sides count on.
const (
	Heartbeat = 10 * time.Second // longest pause between two lines
	Silence   = 3 * Heartbeat    // after this a stream is taken for broken
	MaxBody   = 16 << 10         // bytes of a hello or report
	MaxLine   = 128 << 10        // bytes of a line
)

// Hello opens a stream. It says nothing of who the proxy is: the token does.
type Hello struct {
	Version  int    `json:"version"`
	Claim    string `json:"claim"`    // name of a claim of the pod's namespace
	Revision string `json:"revision"` // of the agent
	Usage
	Generation uint64 `json:"generation"` // highest that it obeyed
}

// Usage is what every connection of a proxy uses.
type Usage struct {
	Login  string `json:"login,omitempty"`
	Server string `json:"server,omitempty"` // Target.Server of it
}

// Line is one line of a stream; an empty one is a heartbeat.
type Line struct {
	Session     string     `json:"session,omitempty"`     // in the first line alone
	Authorities string     `json:"authorities,omitempty"` // PEM, whom to trust from now on; in the first line alone
	Directive   *Directive `json:"directive,omitempty"`
}

// LogValue hides what a directive holds.
func (l Line) LogValue() slog.Value { return slog.AnyValue(l.Directive) }

// Verb says what to do.
type Verb string

// The verbs of an operation, in order; Follow stands outside of any. Expired is
// only reported: the budget was over, and the proxy went back by itself.
const (
	Hold     Verb = "hold"
	Pause    Verb = "pause"
	Retarget Verb = "retarget"
	Resume   Verb = "resume"
	Abort    Verb = "abort"
	Follow   Verb = "follow"
	Expired  Verb = "expired"
)

// Directive is one thing that a proxy shall do.
type Directive struct {
	Verb       Verb          `json:"verb"`
	Generation uint64        `json:"generation"`
	Budget     time.Duration `json:"budget,omitempty"` // nanoseconds, from its arrival
	Target     *Target       `json:"target,omitempty"` // of Hold (to be tried), Retarget and Follow
}

// String shows no password.
func (d Directive) String() string {
	text := fmt.Sprintf("%s of generation %d", d.Verb, d.Generation)
	if d.Target != nil {
		text += " to " + d.Target.String()
	}
	return text
}

// GoString is String.
func (d Directive) GoString() string { return d.String() }

// LogValue is String.
func (d Directive) LogValue() slog.Value { return slog.StringValue(d.String()) }

// Target is a database with the login to use there; without a user it is the
// one that the proxy has. Printing or logging it in
// any form but JSON shows no password.
type Target struct {
	Host     string `json:"host"`
	Port     uint16 `json:"port"`
	Database string `json:"database"`
	User     string `json:"user,omitempty"`
	Password string `json:"password,omitempty"`
	SSLMode  string `json:"sslmode,omitempty"`
	RootCA   []byte `json:"rootCA,omitempty"` // PEM
}

// Server is host:port/database.
func (t Target) Server() string {
	return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) + "/" + t.Database
}

// String is user@host:port/database.
func (t Target) String() string { return t.User + "@" + t.Server() }

// Format writes String for every verb.
func (t Target) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(t.String())) }

// LogValue is String.
func (t Target) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Report is what a proxy tells; each part is optional.
type Report struct {
	Usage
	Outcome *Outcome `json:"outcome,omitempty"`
	Trouble string   `json:"trouble,omitempty"` // for people; at most 300 bytes count
	Leaving bool     `json:"leaving,omitempty"` // it ends, and is to be forgotten
}

// Outcome says what became of a directive; Refusal is empty when it was done.
type Outcome struct {
	Generation uint64 `json:"generation"`
	Verb       Verb   `json:"verb"`
	Refusal    string `json:"refusal,omitempty"`
}
