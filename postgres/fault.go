package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
)

// Reasons a Fault can have.
const (
	Unreachable          = "Unreachable"
	ServerStarting       = "ServerStarting"
	LoginRefused         = "LoginRefused"
	NotPermitted         = "NotPermitted"
	TooManyConnections   = "TooManyConnections"
	OutOfSpace           = "OutOfSpace"
	DatabaseMissing      = "DatabaseMissing"
	DatabaseNotOurs      = "DatabaseNotOurs"
	RoleNotOurs          = "RoleNotOurs"
	ReservedName         = "ReservedName"
	ExtensionUnavailable = "ExtensionUnavailable"
	NotSupported         = "NotSupported"
	TLSRefused           = "TLSRefused"
	MalformedDSN         = "MalformedDSN"
	SessionRoleMissing   = "SessionRoleMissing"
	AlreadyExists        = "AlreadyExists"
	StillUsed            = "StillUsed"
	Busy                 = "Busy"
	TimedOut             = "TimedOut"
	Interrupted          = "Interrupted"
	ServerError          = "ServerError"
)

// ErrUnreachable is in the chain of every error that means: no working
// connection to the server could be had.
var ErrUnreachable = errors.New("server is unreachable")

// Fault says what an error means for a person. Message is at most 300 bytes of
// valid UTF-8, holds no secret, and is the same for the same cause. Permanent
// means that waiting alone does not help.
type Fault struct {
	Reason    string
	Message   string
	Permanent bool
	err       error
}

// Error is the message.
func (f Fault) Error() string { return f.Message }

// Unwrap is the error that was explained, nil for a refusal of berth itself.
func (f Fault) Unwrap() error { return f.err }

// refusal is a Fault that a person has to settle.
func refusal(reason, message string) *Fault {
	return &Fault{Reason: reason, Permanent: true, Message: bounded(message)}
}

// contactError is a failed attempt to get a working connection.
type contactError struct {
	address string
	cause   error
}

func (e *contactError) Error() string {
	return "connecting to " + e.address + ": " + Explain(e).Message
}
func (e *contactError) Unwrap() error { return e.cause }

// Is makes every failed contact an ErrUnreachable.
func (e *contactError) Is(target error) bool { return target == ErrUnreachable }

// Explain says what err means. It knows the errors of the network, of TLS and
// of PostgreSQL; anything else becomes a ServerError.
func Explain(err error) Fault {
	var known *Fault
	if errors.As(err, &known) {
		return *known
	}
	fault := explain(err)
	fault.Message, fault.err = bounded(fault.Message), err
	return fault
}

// explain goes from the most telling cause to the least: what the server
// answered, what TLS refused, what the network did.
func explain(err error) Fault {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return explainAnswer(answer)
	}
	address := "the server"
	var contact *contactError
	if errors.As(err, &contact) {
		address = contact.address
	}
	if explained, ok := explainTLS(err, address); ok {
		return explained
	}
	var network net.Error
	var lookup *net.DNSError
	switch {
	case errors.As(err, &lookup):
		return Fault{Reason: Unreachable, Message: "The host name in " + address + " cannot be resolved."}
	case errors.Is(err, syscall.ECONNREFUSED):
		return Fault{Reason: Unreachable, Message: "Nothing listens at " + address + "."}
	case contact != nil && (errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) || errors.As(err, &network) && network.Timeout()):
		return Fault{Reason: Unreachable, Message: "There is no answer from " + address + "."}
	case contact != nil || errors.Is(err, ErrUnreachable):
		return Fault{Reason: Unreachable, Message: "The connection to " + address + " cannot be made or was lost."}
	case errors.Is(err, context.DeadlineExceeded):
		return Fault{Reason: TimedOut, Message: "The work was not finished in the time it may take."}
	case errors.Is(err, context.Canceled):
		return Fault{Reason: Interrupted, Message: "The work was interrupted."}
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Fault{Reason: Unreachable, Message: "The connection to " + address + " was lost."}
	}
	return Fault{Reason: ServerError, Message: "The work on the server was not finished."}
}

// explainTLS is permanent throughout: a certificate does not heal by waiting.
func explainTLS(err error, address string) (Fault, bool) {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
	)
	// A contactError's own text comes from here.
	cause := err
	var contact *contactError
	if errors.As(err, &contact) {
		cause = contact.cause
	}
	var why string
	switch {
	case errors.As(err, &authority):
		why = "its certificate is signed by an authority that is not trusted"
	case errors.As(err, &host):
		why = "its certificate is for another host name"
	case errors.As(err, &invalid), errors.As(err, &verify):
		why = "its certificate is not valid"
	case errors.As(err, &record), errors.As(err, &alert):
		why = "the TLS handshake was refused"
	case cause != nil && strings.Contains(cause.Error(), "refused TLS connection"):
		why = "it does not offer TLS, which the sslmode demands"
	default:
		return Fault{}, false
	}
	return Fault{Reason: TLSRefused, Permanent: true, Message: "No safe connection to " + address + ": " + why + "."}, true
}

// answers maps SQLSTATE to what it means.
var answers = map[string]Fault{
	"28P01": {Reason: LoginRefused, Permanent: true},
	"28000": {Reason: LoginRefused, Permanent: true},
	"3D000": {Reason: DatabaseMissing, Permanent: true},
	"42501": {Reason: NotPermitted, Permanent: true},
	"0A000": {Reason: NotSupported, Permanent: true},
	"58P01": {Reason: ExtensionUnavailable, Permanent: true},
	"42939": {Reason: ReservedName, Permanent: true},
	"2BP01": {Reason: StillUsed, Permanent: true},
	"53100": {Reason: OutOfSpace, Permanent: true},
	"53300": {Reason: TooManyConnections},
	"57P03": {Reason: ServerStarting},
	"57014": {Reason: TimedOut},
	"42710": {Reason: AlreadyExists},
	"42P04": {Reason: AlreadyExists},
	"42P06": {Reason: AlreadyExists},
	"55006": {Reason: Busy},
	"55P03": {Reason: Busy},
	"40001": {Reason: Busy},
	"40P01": {Reason: Busy},
}

func explainAnswer(answer *pgconn.PgError) Fault {
	fault, known := answers[answer.Code]
	switch {
	case known:
	case strings.HasPrefix(answer.Code, "08"), strings.HasPrefix(answer.Code, "57P"):
		fault = Fault{Reason: Unreachable}
	case strings.Contains(answer.Message, "concurrently updated"):
		fault = Fault{Reason: Busy}
	default:
		fault = Fault{Reason: ServerError}
	}
	if answer.Code == "0A000" && strings.HasPrefix(answer.Message, "extension ") {
		fault.Reason = ExtensionUnavailable
	}
	said := answer.Message
	// A syntax error quotes the statement, which may hold a verifier.
	if strings.HasPrefix(answer.Code, "42601") {
		said = "syntax error"
	}
	if fault.Reason == StillUsed && answer.Detail != "" {
		said += " (" + answer.Detail + ")"
	}
	fault.Message = "The server says: " + processID.ReplaceAllString(said, "$1") + " (SQLSTATE " + answer.Code + ")."
	return fault
}

// A process id would make the same cause read differently each time.
var processID = regexp.MustCompile(`(?i)\b(process|pid)[ =:]+[0-9]+`)

// bounded keeps conditions and events small, and free of what a terminal acts on.
func bounded(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	const limit, mark = 300, "..."
	if len(s) <= limit {
		return s
	}
	s = s[:limit-len(mark)]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + mark
}
