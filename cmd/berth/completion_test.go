package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/process"
)

func grammar(t *testing.T) *kong.Node {
	t.Helper()
	k, err := kong.New(&commands{}, kong.Name("berth"))
	if err != nil {
		t.Fatal(err)
	}
	return k.Model.Node
}

// bashed completes the last word with bash itself; a stub answers for berth.
func bashed(t *testing.T, script string, words ...string) []string {
	t.Helper()
	dir := t.TempDir()
	stub := "#!/bin/sh\n[ \"$1 $2\" = 'complete claims' ] && echo orders billing\n[ \"$1 $2\" = 'complete roles' ] && echo reader\n"
	if err := os.WriteFile(filepath.Join(dir, "berth"), []byte(stub), 0o700); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p, err := process.Start(process.Spec{
		Path: "/bin/bash", Log: &out, Env: []string{"PATH=" + dir + ":/usr/bin:/bin"},
		Args: append([]string{"-c", script + "\nCOMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _berth; printf '%s\\n' \"${COMPREPLY[@]}\"", "bash"}, words...),
	})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if p.Err() != nil {
		t.Fatalf("%v: %s", p.Err(), out.String())
	}
	return strings.Fields(out.String())
}

func TestBashCompletes(t *testing.T) {
	t.Parallel()
	script, manifest := bashScript(grammar(t)), filepath.Join(t.TempDir(), "claim.yaml")
	if err := os.WriteFile(manifest, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ words, want []string }{
		"commands by their first letters":       {[]string{"berth", "r"}, []string{"rotate", "revoke", "rollback"}},
		"no hidden command":                     {[]string{"berth", "complete"}, nil},
		"names of claims":                       {[]string{"berth", "get", "o"}, []string{"orders"}},
		"names after other flags":               {[]string{"berth", "-n", "apps", "psql", ""}, []string{"orders", "billing"}},
		"names of role claims after --role":     {[]string{"berth", "rotate", "--role", ""}, []string{"reader"}},
		"flags of the command":                  {[]string{"berth", "get", "--w"}, []string{"--watch"}},
		"flags of all commands":                 {[]string{"berth", "get", "--names"}, []string{"--namespace"}},
		"a flag that can be turned off":         {[]string{"berth", "rotate", "--no-"}, []string{"--no-wait"}},
		"values of a flag":                      {[]string{"berth", "get", "-o", ""}, []string{"table", "json", "yaml"}},
		"values of an argument":                 {[]string{"berth", "completion", "f"}, []string{"fish"}},
		"nothing for a value that nobody knows": {[]string{"berth", "rotate", "--timeout", ""}, nil},
		"files where a file is wanted":          {[]string{"berth", "plan", "-f", manifest[:len(manifest)-1]}, []string{manifest}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := bashed(t, script, tc.words...)
			if diff := cmp.Diff(strings.Join(tc.want, " "), strings.Join(got, " ")); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestEachShellLearnsEachCommand(t *testing.T) {
	t.Parallel()
	root := grammar(t)
	for shell, script := range map[string]string{"bash": bashScript(root), "zsh": zshScript(root), "fish": fishScript(root)} {
		for _, command := range commandsOf(root) {
			if !strings.Contains(script, quoted(" "+command.Name)) {
				t.Errorf("the script of %s does not know %s", shell, command.Name)
			}
		}
		if strings.Contains(script, "' complete'") {
			t.Errorf("the script of %s shows a hidden command", shell)
		}
	}
}
