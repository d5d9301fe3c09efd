package postgres

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// CheckName refuses, with a *Fault, a name that PostgreSQL would cut short,
// alter, or keep for itself. Kind is the word for it in the message: database,
// role or schema.
func CheckName(kind, name string) error {
	var rule string
	switch {
	case name == "":
		rule = "it must not be empty"
	case len(name) > 63:
		rule = "it must have at most 63 bytes"
	case !utf8.ValidString(name) || strings.ContainsRune(name, 0):
		rule = "it must be UTF-8 without NUL bytes"
	case strings.HasPrefix(name, "pg_"):
		rule = "it must not begin with pg_"
	case slices.Contains(reserved[kind], name):
		rule = "PostgreSQL keeps it for itself"
	default:
		return nil
	}
	return refusal(ReservedName, fmt.Sprintf("The %s name %q cannot be used: %s.", kind, name, rule))
}

var reserved = map[string][]string{
	"database": {"postgres", "template0", "template1"},
	"role":     {"postgres", "public", "none"},
	"schema":   {"information_schema"},
}
