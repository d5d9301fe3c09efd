package postgres

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Statement is one SQL command of a plan.
type Statement struct {
	Database  string // where it runs; empty is the maintenance database
	SQL       string
	Note      string // for people: "create database orders"
	Sensitive bool   // SQL holds a verifier
	Alone     bool   // cannot share a transaction with others

	// Done is a query with one boolean. It is asked when the server refuses
	// SQL; true means that what SQL wants is so already, and the plan goes on.
	// With it a plan can be replayed from its first statement.
	Done string
}

// String is the SQL with sensitive literals replaced by <redacted>.
func (s Statement) String() string {
	if !s.Sensitive {
		return s.SQL
	}
	return redact(s.SQL)
}

// GoString is String, so that %#v shows no verifier.
func (s Statement) GoString() string { return s.String() }

// LogValue is String.
func (s Statement) LogValue() slog.Value { return slog.StringValue(s.String()) }

// redact replaces the text of every literal, and leaves quoted identifiers.
func redact(sql string) string {
	var out strings.Builder
	for sql != "" {
		i := strings.IndexAny(sql, `'"`)
		if i < 0 {
			break
		}
		quote := sql[i : i+1]
		end := i + 1
		for end < len(sql) {
			if sql[end:end+1] != quote {
				end++
				continue
			}
			if !strings.HasPrefix(sql[end+1:], quote) {
				break
			}
			end += 2
		}
		end = min(end+1, len(sql))
		if quote == "'" {
			out.WriteString(sql[:i] + "'<redacted>'")
		} else {
			out.WriteString(sql[:end])
		}
		sql = sql[end:]
	}
	return out.String() + sql
}

// plan collects statements for one database at a time.
type plan struct {
	database   string
	statements []Statement
}

func (p *plan) add(note, format string, args ...any) *Statement {
	p.statements = append(p.statements, Statement{Database: p.database, Note: note, SQL: fmt.Sprintf(format, args...)})
	return &p.statements[len(p.statements)-1]
}

func ident(parts ...string) string { return pgx.Identifier(parts).Sanitize() }

// literal relies on standard_conforming_strings, which every session sets.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func literals(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = literal(v)
	}
	return strings.Join(quoted, ", ")
}
