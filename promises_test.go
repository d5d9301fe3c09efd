package berth_test

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPromises checks that every proof which docs/promises.md names exists: a
// test function in a package's folder, or a row of the bench. A promise without
// proof says "not yet" and the issue it waits for.
func TestPromises(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/promises.md")
	if err != nil {
		t.Fatal(err)
	}
	known := provable(t)
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "|") || len(cells) < 2 || strings.HasPrefix(strings.TrimSpace(cells[0]), "---") || strings.TrimSpace(cells[1]) == "proof" {
			continue
		}
		rows++
		promise, proofs := strings.TrimSpace(cells[0]), strings.TrimSpace(cells[1])
		if strings.HasPrefix(proofs, "not yet") {
			continue
		}
		named := proof.FindAllStringSubmatch(proofs, -1)
		if len(named) == 0 {
			t.Errorf("%q names no proof: %q", promise, proofs)
		}
		for _, name := range named {
			if !known[name[1]] {
				t.Errorf("%q is proved by %s, which does not exist", promise, name[1])
			}
		}
	}
	if rows < 50 {
		t.Errorf("only %d promises were found", rows)
	}
}

var proof = regexp.MustCompile("`([^`]+)`")

// provable are all tests as folder.TestName, those of this folder as TestName,
// and the files of the bench.
func provable(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	for file, syntax := range sources(t) {
		folder := filepath.ToSlash(filepath.Dir(file))
		if folder == "bench" {
			known[file] = true
		}
		for _, d := range syntax.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv == nil && (strings.HasPrefix(f.Name.Name, "Test") || strings.HasPrefix(f.Name.Name, "Fuzz")) && strings.HasSuffix(file, "_test.go") {
				known[strings.TrimPrefix(folder+"."+f.Name.Name, "..")] = true
			}
		}
	}
	return known
}
