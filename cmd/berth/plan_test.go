package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/postgres"
)

func TestPrintPlans(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		plans []plan
		want  string
	}{
		"says when there is nothing to do": {[]plan{{Kind: "DatabaseClaim", Namespace: "apps", Name: "orders"}}, `
DatabaseClaim apps/orders: nothing to do
`},
		"lists all that stops an object": {[]plan{{Kind: "DatabaseClass", Name: "gold", Stops: []string{"spec.backend: no", "spec.server: no"}}}, `
DatabaseClass gold
  stops    spec.backend: no
  stops    spec.server: no
`},
		"groups SQL by database and keeps its order": {[]plan{{Kind: "DatabaseClaim", Namespace: "apps", Name: "orders",
			Objects: []string{"Secret apps/orders"}, Restarts: []string{"server class-gold, at once"}, SQL: []planned{
				{Note: "make the owner", SQL: `CREATE ROLE "o"`},
				{SQL: `CREATE DATABASE "d" OWNER "o";`},
				{Database: "d", Note: "make\x1b the schema", SQL: "CREATE SCHEMA\n  \"s\""},
				{SQL: "COMMENT ON DATABASE d IS 'x'"},
			}}, {Kind: "RoleClaim", Namespace: "apps", Name: "reader"}}, `
DatabaseClaim apps/orders
  writes   Secret apps/orders
  restarts server class-gold, at once
  SQL in the maintenance database
    -- make the owner
    CREATE ROLE "o";
    CREATE DATABASE "d" OWNER "o";
  SQL in database d
    -- make  the schema
    CREATE SCHEMA
      "s";
  SQL in the maintenance database
    COMMENT ON DATABASE d IS 'x';

RoleClaim apps/reader: nothing to do
`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			if err := (&desk{terminal: &terminal{out: &out, width: 80}}).printPlans(tc.plans); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tc.want, "\n"), out.String()); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestPlansHoldNoSecret(t *testing.T) {
	t.Parallel()
	verifier := "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"
	statements := postgres.DecideLogin(postgres.Login{Name: "o_a", Owner: "o", Session: "o", Verifier: verifier}, postgres.LoginState{Name: "o_a"}, postgres.Facts{})
	hidden := false
	for _, s := range withoutSecrets(statements) {
		if strings.Contains(s.SQL, verifier) {
			t.Errorf("the plan shows a verifier: %s", s.SQL)
		}
		hidden = hidden || strings.Contains(s.SQL, "<redacted>")
	}
	if !hidden {
		t.Fatalf("no statement of %d sets a password", len(statements))
	}
}

func TestComplaint(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ field, message, want string }{
		"leaves a value out, which may be a password": {"spec.dsn", `Invalid value: "postgres://u:hunter2@h/d": spec.dsn: must not hold a password`, "spec.dsn: must not hold a password"},
		"leaves a quoted colon out":                   {"spec.dsn", `Invalid value: "a: \"b\": c": spec.dsn: no`, "spec.dsn: no"},
		"leaves a number out":                         {"spec.port", "Invalid value: -4: spec.port in body should be at least 0", "spec.port in body should be at least 0"},
		"keeps the field that a rule names":           {"spec", "Invalid value: spec.databaseName: cannot be renamed", "spec.databaseName: cannot be renamed"},
		"adds a field that nobody names":              {"spec.type", `Unsupported value: "x": supported values: "database"`, `spec.type: Unsupported value: "x": supported values: "database"`},
		"leaves out a field that is none":             {"<nil>", "Invalid value: null: some rules were not checked", "some rules were not checked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := complaint(metav1.StatusCause{Field: tc.field, Message: tc.message}); got != tc.want {
				t.Fatalf("%s\nwant %s", got, tc.want)
			}
		})
	}
}
