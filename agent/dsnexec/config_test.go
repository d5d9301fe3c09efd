package dsnexec_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/agent/dsnexec"
)

const whole = `
configs:
  users:
    disabled: true
    sources:
      - {driver: postgres, filename: /a/uri_dsn.txt}
      - {filename: /a/plain}
    destination: {driver: hotload, dsn: "fsnotify://postgres/a/uri_dsn.txt"}
    commands:
      - command: SELECT $1
        args: ["int:5", 7]
  audit:
    destination: {driver: shelldb}
    commands: [{command: /bin/true}]
`

func TestParseConfig(t *testing.T) {
	t.Parallel()
	got, err := dsnexec.ParseConfig([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	want := []dsnexec.Config{
		{Name: "audit", Destination: dsnexec.Destination{Driver: "shelldb"}, Commands: []dsnexec.Command{{Text: "/bin/true"}}},
		{
			Name: "users", Disabled: true,
			Sources:     []dsnexec.Source{{Driver: "postgres", Filename: "/a/uri_dsn.txt"}, {Driver: "none", Filename: "/a/plain"}},
			Destination: dsnexec.Destination{Driver: "hotload", DSN: "fsnotify://postgres/a/uri_dsn.txt"},
			Commands:    []dsnexec.Command{{Text: "SELECT $1", Args: []string{"int:5", "7"}}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseConfigRefuses(t *testing.T) {
	t.Parallel()
	const fine = "    destination: {driver: postgres, dsn: 'postgres://h'}\n    commands: [{command: SELECT 1}]\n"
	for name, tc := range map[string]struct{ text, want string }{
		"an empty file":             {"", "configs: missing"},
		"no config":                 {"configs: {}", "configs: missing"},
		"a list":                    {"- a", "the file: must be a mapping (line 1)"},
		"two documents":             {"configs: {}\n---\nconfigs: {}", "one YAML document"},
		"what is not YAML":          {"configs: *hunter2", "is not YAML"},
		"an unknown key at the top": {"config: {}", "config: unknown key; there are configs"},
		"an unknown key inside":     {"configs:\n  a:\n    sources: [{filname: /x}]\n" + fine, "configs.a.sources[0].filname: unknown key; there are driver, filename"},
		"a key that is there twice": {"configs:\n  a:\n    disabled: true\n    disabled: true\n" + fine, "configs.a.disabled: is there twice (line 4)"},
		"a source without a file":   {"configs:\n  a:\n    sources: [{driver: json}]\n" + fine, "configs.a.sources[0].filename: missing"},
		"a source that is twice":    {"configs:\n  a:\n    sources: [{filename: /x}, {filename: /x}]\n" + fine, "configs.a.sources[1].filename: is a source already"},
		"an unknown source driver":  {"configs:\n  a:\n    sources: [{driver: mysql, filename: /x}]\n" + fine, "configs.a.sources[0].driver: must be one of postgres, json, yaml, none"},
		"an unknown destination":    {"configs:\n  a:\n    destination: {driver: mysql, dsn: x}\n    commands: [{command: x}]", "configs.a.destination.driver: must be one of postgres, hotload, shelldb, fprintf"},
		"no destination":            {"configs:\n  a:\n    commands: [{command: x}]", "configs.a.destination.driver: must be one of"},
		"a destination without DSN": {"configs:\n  a:\n    destination: {driver: postgres}\n    commands: [{command: x}]", "configs.a.destination.dsn: missing"},
		"no command":                {"configs:\n  a:\n    destination: {driver: shelldb}", "configs.a.commands: missing"},
		"an empty command":          {"configs:\n  a:\n    destination: {driver: shelldb}\n    commands: [{args: [x]}]", "configs.a.commands[0].command: missing"},
		"a broken template":         {"configs:\n  a:\n    destination: {driver: shelldb}\n    commands: [{command: x, args: ['{{ nosuch }}']}]", `configs.a.commands[0].args[0]: is no template: 1: function "nosuch" not defined`},
		"a truth that is none":      {"configs:\n  a:\n    disabled: hunter2\n" + fine, "configs.a.disabled: must be true or false (line 3)"},
		"a text that is a list":     {"configs:\n  a:\n    destination: {driver: [hunter2], dsn: x}\n    commands: [{command: x}]", "configs.a.destination.driver: must be a text (line 3)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := dsnexec.ParseConfig([]byte(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a value: %v", err)
			}
		})
	}
}

func TestParseConfigTellsAllAtOnce(t *testing.T) {
	t.Parallel()
	_, err := dsnexec.ParseConfig([]byte("configs: {a: {nosuch: 1}, b: {disabled: 2}}\nmore: 1"))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, key := range []string{"configs.a.nosuch", "configs.a.commands", "configs.b.disabled", "configs.b.destination", "more"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not in: %v", key, err)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(whole)
	f.Add("configs: &a {x: *a}")
	f.Fuzz(func(t *testing.T, text string) {
		configs, err := dsnexec.ParseConfig([]byte(text))
		if err == nil && len(configs) == 0 {
			t.Error("accepted without a config")
		}
	})
}

func TestChoose(t *testing.T) {
	t.Parallel()
	configs := []dsnexec.Config{{Name: "off", Disabled: true}, {Name: "on"}}
	for name, tc := range map[string]struct {
		enable, disable, want []string
		err                   string
	}{
		"leaves out what the file disables": {want: []string{"on"}},
		"runs what is asked for":            {enable: []string{"off"}, want: []string{"off", "on"}},
		"leaves out what is unwanted":       {disable: []string{"on"}},
		"disables what is in both":          {enable: []string{"off"}, disable: []string{"off"}, want: []string{"on"}},
		"refuses a name that is not there":  {enable: []string{"of"}, err: "configs.of: is not in the file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			chosen, err := dsnexec.Choose(configs, tc.enable, tc.disable)
			var got []string
			for _, c := range chosen {
				got = append(got, c.Name)
			}
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Errorf("got %v, want %q", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Error(err, diff)
			}
		})
	}
}
