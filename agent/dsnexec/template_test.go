package dsnexec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/postgres"
)

var loaded = map[string]any{
	"/dsn":  map[string]any{"host": "db", "password": `p'a\s"s`, "port": "5432", "sslmode": "", "raw_dsn": "x"},
	"/json": map[string]any{"list": []any{"zero", map[string]any{"in": "side"}}},
}

func TestFillArg(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		text string
		want any
		err  string
	}{
		"takes a value by file and key": {text: `{{ index . "/dsn" "host" }}:{{ index . "/dsn" "port" }}`, want: "db:5432"},
		"goes into a list":              {text: `{{ index . "/json" "list" 1 "in" }}`, want: "side"},
		"casts to int64":                {text: `int64:{{ index . "/dsn" "port" }}`, want: int64(5432)},
		"casts to int":                  {text: `int:-1`, want: -1},
		"casts to int32":                {text: `int32:1`, want: int32(1)},
		"casts to int16":                {text: `int16:1`, want: int16(1)},
		"casts to int8":                 {text: `int8:1`, want: int8(1)},
		"takes a default":               {text: `{{ index . "/dsn" "sslmode" | default "disable" }}`, want: "disable"},
		"quotes a literal":              {text: `{{ literal (index . "/dsn" "password") }}`, want: ` E'p''a\\s"s'`},
		"quotes an identifier":          {text: `{{ identifier (index . "/dsn" "password") }}`, want: `"p'a\s""s"`},
		"encodes and replaces":          {text: `{{ "ab" | replace "a" "c" | upper | b64enc | b64dec }}`, want: "CB"},

		"does not cast what a value says": {text: `{{ "int:5" }}`, want: "int:5"},
		"refuses a file that is none":     {text: `{{ index . "/nosuch" "host" }}`, err: `k: index: there is no "/nosuch"`},
		"refuses a key that is missing":   {text: `{{ index . "/dsn" "nosuch" }}`, err: `k: index: there is no "nosuch"`},
		"refuses what is below a text":    {text: `{{ index . "/dsn" "host" "x" }}`, err: `k: index: nothing is below "x"`},
		"refuses an item past the end":    {text: `{{ index . "/json" "list" 2 }}`, err: `k: index: there is no item 2`},
		"refuses a number too large":      {text: `int8:{{ index . "/dsn" "port" }}`, err: "k: the value is not a number that int8 can hold"},
		"refuses a text for a number":     {text: `int:{{ index . "/dsn" "password" }}`, err: "k: the value is not a number that int can hold"},
		"refuses what is no base64":       {text: `{{ index . "/dsn" "password" | b64dec }}`, err: "k: b64dec: the value is not base64"},
		"tells what is required":          {text: `{{ index . "/dsn" "sslmode" | required "no sslmode" }}`, err: "k: no sslmode"},
		"hides what a function was given": {text: `{{ slice (index . "/dsn" "password") 99 }}`, err: "k: the template does not run on these sources"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := fillArg("k", tc.text, loaded)
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Fatalf("got %v, want %q", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Error(err, diff)
			}
		})
	}
}

// A secret is gone from any text that it was put into, in each of its forms.
func TestHiding(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		password := rapid.StringN(3, 20, -1).Filter(func(s string) bool { return !strings.ContainsRune(s, 0) }).Draw(t, "password")
		target := postgres.Target{Host: "h", Port: 1, User: "u", Password: password, Database: "d"}
		text := strings.Join([]string{password, target.URI(), target.KeyValue(), literal(password)}, " and ")
		shown := hiding([]string{target.URI(), target.KeyValue(), password, literal(password)}).Replace(text)
		if strings.Contains(strings.ReplaceAll(shown, "<hidden>", "\x00"), password) {
			t.Errorf("%q shows %q", shown, password)
		}
	})
}

func TestFits(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		format string
		args   []any
		want   bool
	}{
		"a verb for each argument": {"%s-%d", []any{"a", int64(1)}, true},
		"no verb":                  {"plain 100%%!", nil, true},
		"an argument too few":      {"%s-%s", []any{"a"}, false},
		"an argument too many":     {"%s", []any{"a", "b"}, false},
		"a text as a number":       {"%d", []any{"a"}, false},
		"a value with a percent":   {"%s", []any{"%!d"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := fits(tc.format, tc.args); got != tc.want {
				t.Error(got)
			}
		})
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	now := time.Now()
	old, other := [32]byte{1}, [32]byte{2}
	for name, tc := range map[string]struct {
		job     [32]byte
		retryAt time.Time
		want    bool
	}{
		"a new job at once":                  {other, now.Add(time.Hour), true},
		"the failed one not before its time": {old, now.Add(time.Nanosecond), false},
		"the failed one at its time":         {old, now, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := due(tc.job, old, tc.retryAt, now); got != tc.want {
				t.Error(got)
			}
		})
	}
	var pauses []time.Duration
	pause := time.Duration(0)
	for range 8 {
		pause = nextRetry(pause, true)
		pauses = append(pauses, pause)
	}
	want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}
	for i := range want {
		want[i] *= time.Second
	}
	if diff := cmp.Diff(want, pauses); diff != "" {
		t.Error(diff)
	}
	if got := nextRetry(time.Minute, false); got != time.Second {
		t.Errorf("another job waits %s", got)
	}
}

func TestSourceValues(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		driver, content string
		want            map[string]any
		err             string
	}{
		"a URI":            {"postgres", "postgresql://u:p%40@h:1/d?sslmode=require\n", map[string]any{"host": "h", "port": "1", "user": "u", "password": "p@", "dbname": "d", "sslmode": "require", "raw_dsn": "postgresql://u:p%40@h:1/d?sslmode=require"}, ""},
		"keywords":         {"postgres", "host=h user=u password='p w' dbname=d", map[string]any{"host": "h", "port": "5432", "user": "u", "password": "p w", "dbname": "d", "sslmode": "", "raw_dsn": "host=h user=u password='p w' dbname=d"}, ""},
		"a malformed DSN":  {"postgres", "mysql://u:hunter2@h", nil, "the scheme must be"},
		"JSON":             {"json", `{"a": {"b": 12345678901234567890}}`, map[string]any{"a": map[string]any{"b": json.Number("12345678901234567890")}, "raw_dsn": `{"a": {"b": 12345678901234567890}}`}, ""},
		"JSON cut short":   {"json", `{"a": "hunter2`, nil, "is not a JSON object"},
		"a JSON list":      {"json", `["hunter2"]`, nil, "is not a JSON object"},
		"YAML":             {"yaml", "a: b", map[string]any{"a": "b", "raw_dsn": "a: b"}, ""},
		"YAML that is not": {"yaml", "a: *hunter2", nil, "is not a YAML mapping"},
		"anything":         {"none", " raw ", map[string]any{"raw_dsn": "raw"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := writeFile(t, tc.content)
			got, _, err := Source{Driver: tc.driver, Filename: file}.values(snapshot{})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "hunter2") {
					t.Fatalf("got %v, want %q", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Error(err, diff)
			}
		})
	}
}

// Files of one folder are read from the version that its first one was read
// from, also when the folder changes in between.
func TestASnapshotIsOfOneVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	show := func(version string) {
		for _, err := range []error{
			os.Mkdir(filepath.Join(dir, version), 0o755),
			os.WriteFile(filepath.Join(dir, version, "user"), []byte(version), 0o600),
			os.WriteFile(filepath.Join(dir, version, "password"), []byte(version), 0o600),
			os.Symlink(version, filepath.Join(dir, "next")),
			os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "..data")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func(s snapshot, name string) string {
		data, err := s.read(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	show("one")
	for _, name := range []string{"user", "password"} {
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s := snapshot{}
	got := []string{read(s, "user")}
	show("two")
	got = append(got, read(s, "password"), read(snapshot{}, "password"))
	if diff := cmp.Diff([]string{"one", "one", "two"}, got); diff != "" {
		t.Error(diff)
	}
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
