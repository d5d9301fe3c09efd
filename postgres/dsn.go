package postgres

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

// settings of a DSN that only shape a client's own session: accepted, not kept.
var sessionKeys = []string{
	"application_name", "fallback_application_name", "client_encoding", "connect_timeout", "options", "target_session_attrs",
	"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "gssencmode", "sslcompression", "sslsni",
}

// malformed names the rule alone: the input may hold a password anywhere.
func malformed(rule string) *Fault {
	return &Fault{Reason: MalformedDSN, Permanent: true, Message: "the DSN cannot be used: " + rule}
}

// ParseDSN reads a URI (postgres:// or postgresql://) or the keyword form of
// libpq. A missing port is 5432; user, password and database may be missing.
// It never panics, and its error, a *Fault, holds no part of the input.
func ParseDSN(dsn string) (Target, error) {
	t := Target{Port: 5432}
	if !utf8.ValidString(dsn) || strings.ContainsRune(dsn, 0) {
		return Target{}, malformed("it must be UTF-8 without NUL bytes")
	}
	var fault *Fault
	rest, ours := cutScheme(dsn)
	scheme, _, uri := strings.Cut(dsn, "://")
	switch {
	case ours:
		fault = t.parseURI(rest)
	case uri && !strings.Contains(scheme, "="):
		fault = malformed("the scheme must be postgres:// or postgresql://")
	default:
		fault = t.parseKeyValue(dsn)
	}
	if fault == nil {
		fault = t.checkHost()
	}
	if fault != nil {
		return Target{}, fault
	}
	return t, nil
}

func cutScheme(dsn string) (string, bool) {
	for _, scheme := range []string{"postgres://", "postgresql://"} {
		if rest, ok := strings.CutPrefix(dsn, scheme); ok {
			return rest, true
		}
	}
	return "", false
}

// parseURI splits as libpq does: the first @ before any slash ends the user
// part, so a password may hold everything else unescaped.
func (t *Target) parseURI(rest string) *Fault {
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		user, password, _ := strings.Cut(rest[:i], ":")
		if fault := t.set("user", user, unescape); fault != nil {
			return fault
		}
		if fault := t.set("password", password, unescape); fault != nil {
			return fault
		}
		rest = rest[i+1:]
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, database, _ := strings.Cut(rest, "/")
	host, port, fault := splitAuthority(authority)
	if fault != nil {
		return fault
	}
	if fault := t.set("host", host, unescape); fault != nil {
		return fault
	}
	if port != "" {
		if fault := t.set("port", port, unescape); fault != nil {
			return fault
		}
	}
	if fault := t.set("dbname", database, unescape); fault != nil {
		return fault
	}
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, value, found := strings.Cut(pair, "=")
		if !found {
			return malformed("each query parameter must be key=value")
		}
		key, ok := unescape(key)
		if !ok {
			return malformed("a % must be followed by two hexadecimal digits")
		}
		if fault := t.set(key, value, unescape); fault != nil {
			return fault
		}
	}
	return nil
}

// splitAuthority refuses what libpq would guess about: several hosts, and
// colons that may belong to an address or to a port.
func splitAuthority(authority string) (host, port string, fault *Fault) {
	if strings.Contains(authority, ",") {
		return "", "", malformed("it must name a single host")
	}
	if inner, ok := strings.CutPrefix(authority, "["); ok {
		host, after, closed := strings.Cut(inner, "]")
		port, colon := strings.CutPrefix(after, ":")
		if !closed || host == "" || (after != "" && !colon) {
			return "", "", malformed("an IPv6 host must be written as [address]:port")
		}
		return host, port, nil
	}
	if strings.Count(authority, ":") > 1 || strings.ContainsAny(authority, "@[]") {
		return "", "", malformed("special characters in user and password must be percent-encoded, and an IPv6 host be in brackets")
	}
	host, port, _ = strings.Cut(authority, ":")
	return host, port, nil
}

// parseKeyValue follows libpq: key = value, value in single quotes or not,
// a backslash takes the next character as it is.
func (t *Target) parseKeyValue(dsn string) *Fault {
	rest := strings.TrimLeft(dsn, asciiSpace)
	for rest != "" {
		key, after, found := strings.Cut(rest, "=")
		key = strings.TrimRight(key, asciiSpace)
		if !found || key == "" || strings.ContainsAny(key, asciiSpace) {
			return malformed("it must be a URI (postgres://user@host/database) or a list of key=value")
		}
		value, next, ok := cutValue(strings.TrimLeft(after, asciiSpace))
		if !ok {
			return malformed("a quoted value must end with a single quote")
		}
		if fault := t.set(key, value, verbatim); fault != nil {
			return fault
		}
		rest = strings.TrimLeft(next, asciiSpace)
	}
	return nil
}

const asciiSpace = " \t\n\r\v\f"

// cutValue takes one value from the front of s; ok is false when its quote
// never ends.
func cutValue(s string) (value, rest string, ok bool) {
	quoted := strings.HasPrefix(s, "'")
	if quoted {
		s = s[1:]
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			out.WriteByte(s[i])
		case quoted && c == '\'':
			return out.String(), s[i+1:], true
		case !quoted && strings.IndexByte(asciiSpace, c) >= 0:
			return out.String(), s[i:], true
		case c != '\\':
			out.WriteByte(c)
		}
	}
	return out.String(), "", !quoted
}

// set refuses what it does not know, so that a setting which guards a
// connection (a pinned certificate, a service file) is never dropped silently.
func (t *Target) set(key, raw string, decode func(string) (string, bool)) *Fault {
	value, ok := decode(raw)
	if !ok {
		return malformed("a % must be followed by two hexadecimal digits, and the result be UTF-8 without NUL bytes")
	}
	switch key {
	case "host":
		t.Host = value
	case "port":
		port, err := strconv.ParseUint(value, 10, 16)
		if err != nil || port == 0 || strings.HasPrefix(value, "+") {
			return malformed("the port must be a number from 1 to 65535")
		}
		t.Port = uint16(port)
	case "user":
		t.User = value
	case "password":
		t.Password = value
	case "dbname":
		t.Database = value
	case "sslmode":
		if !slices.Contains(sslModes, value) {
			return malformed("sslmode must be one of " + strings.Join(sslModes, ", "))
		}
		t.SSLMode = value
	case "ssl":
		if value != "true" {
			return malformed("ssl must be true; use sslmode for anything else")
		}
		t.SSLMode = "require"
	default:
		if !slices.Contains(sessionKeys, key) {
			return malformed("of the settings only host, port, user, password, dbname and sslmode are supported; give a root certificate beside the DSN")
		}
	}
	return nil
}

// checkHost runs last: a host may come from the authority or from a parameter.
func (t *Target) checkHost() *Fault {
	switch {
	case t.Host == "":
		return malformed("the host is missing")
	case strings.HasPrefix(t.Host, "/"):
		return nil
	case strings.Contains(t.Host, ","):
		return malformed("it must name a single host")
	case strings.Contains(t.Host, ":"):
		if _, err := netip.ParseAddr(t.Host); err != nil {
			return malformed("the host must be a name or an IP address")
		}
		return nil
	}
	for _, c := range []byte(t.Host) {
		if !unreserved(c) {
			return malformed("the host must be a name or an IP address")
		}
	}
	return nil
}
