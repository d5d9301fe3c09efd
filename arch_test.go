// Package berth_test holds the rules of the house: who may import whom, and
// how long things may get.
package berth_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/berth-dev/berth/"

// mayImport lists, for each package folder, the folders of ours that it may
// import; a folder without an entry of its own follows its parent. A new
// package has no place until it is given one here.
var mayImport = map[string]string{
	"api":                  "",
	"step":                 "",
	"naming":               "",
	"postgres":             "",
	"process":              "",
	"deploy":               "",
	"postgres/replication": "postgres process",

	"credential": "api naming step",
	"dev":        "process",

	"backend":             "api naming step postgres credential",
	"backend/existing":    "api naming backend postgres credential",
	"backend/local":       "api naming backend postgres process",
	"backend/backendtest": "api naming backend postgres",

	"claim": "api naming step postgres credential backend",
	"role":  "api naming step postgres credential backend",

	"migration": "api naming step postgres postgres/replication credential backend",

	"warehouse":          "api naming step postgres",
	"warehouse/duckling": "api naming postgres warehouse",
	"warehouse/direct":   "api naming postgres warehouse",
	"cloud":              "",
	"rest":               "api naming cloud",

	"mount":           "postgres",
	"agent":           "mount postgres process switchboard/wire",
	"canopy":          "",
	"broker":          "canopy",
	"agent/s3/s3test": "agent process internal/testkit",
	"webhook":         "api naming deploy",

	"switchboard":           "api naming postgres credential webhook switchboard/wire",
	"switchboard/wire":      "", // what both sides of the network know
	"switchboard/boardtest": "api naming webhook switchboard switchboard/wire internal/testkit",

	"internal/testkit":       "dev deploy postgres process",
	"internal/testkit/world": "api naming step postgres credential backend backend/existing claim role internal/testkit",

	"deploy/chart": "dev postgres", // tests of the chart alone

	"e2e/image":   "process",
	"e2e/cluster": "process e2e/image",
	"e2e/node":    "dev process e2e/cluster e2e/image",
	"e2e/stories": "api e2e/cluster process",

	"cmd/berth":         "*", // only here are implementations chosen
	"cmd/berth-agent":   "agent process",
	"cmd/berth-restore": "agent",
	"bench":             "*", // wires a controller of its own, to measure it
}

// inTests are what any test may import besides.
var inTests = "dev agent/s3/s3test internal/testkit internal/testkit/world backend/backendtest backend/local process api switchboard switchboard/wire switchboard/boardtest agent"

func TestImports(t *testing.T) {
	t.Parallel()
	for file, syntax := range sources(t) {
		folder := filepath.ToSlash(filepath.Dir(file))
		if folder == "." {
			continue
		}
		place, allowed, known := placeOf(folder)
		if !known {
			t.Errorf("%s has no place in mayImport", folder)
			continue
		}
		if strings.HasSuffix(file, "_test.go") {
			allowed += " " + inTests
		}
		for _, imported := range syntax.Imports {
			path, _ := strconv.Unquote(imported.Path.Value)
			target, ours := strings.CutPrefix(path, module)
			if !ours || target == folder || allowed == "*" || strings.HasPrefix(allowed, "* ") {
				continue
			}
			if to, _, _ := placeOf(target); to != place && !slices.Contains(strings.Fields(allowed), to) {
				t.Errorf("%s must not import %s", file, target)
			}
		}
	}
}

// placeOf finds the longest entry of mayImport that folder is in.
func placeOf(folder string) (place, allowed string, known bool) {
	for place = folder; place != "."; place = filepath.ToSlash(filepath.Dir(place)) {
		if allowed, known = mayImport[place]; known {
			return place, allowed, true
		}
	}
	return folder, "", false
}

// The agent runs beside tenants' programs: it links no Kubernetes client.
func TestAgentLinksNoKubernetes(t *testing.T) {
	t.Parallel()
	for file, syntax := range sources(t) {
		if !strings.HasPrefix(file, "cmd/berth-agent/") && !strings.HasPrefix(file, "cmd/berth-restore/") && !strings.HasPrefix(file, "agent/") {
			continue
		}
		for _, imported := range syntax.Imports {
			path, _ := strconv.Unquote(imported.Path.Value)
			if strings.HasPrefix(path, "k8s.io/") || strings.HasPrefix(path, "sigs.k8s.io/") {
				t.Errorf("%s imports %s", file, path)
			}
		}
	}
}

// Budgets, in lines. A longer one has a reason, which stands here.
const (
	kernelLines    = 250 // step/reconciler.go, the engine of every kind
	fileLines      = 300
	functionLines  = 60
	stepLines      = 40
	interfaceLines = 6 // methods
	mainLines      = 40
)

func TestBudgets(t *testing.T) {
	t.Parallel()
	for file, syntax := range sources(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		limit := fileLines
		if file == "step/reconciler.go" {
			limit = kernelLines
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(text), "\n"); lines > limit {
			t.Errorf("%s has %d lines, more than %d", file, lines, limit)
		}
		ast.Inspect(syntax, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				checkFunction(t, file, text, n, syntax)
			case *ast.InterfaceType:
				if n.Methods.NumFields() > interfaceLines {
					t.Errorf("%s: an interface has %d methods, more than %d", file, n.Methods.NumFields(), interfaceLines)
				}
			}
			return true
		})
	}
}

func checkFunction(t *testing.T, file string, text []byte, f *ast.FuncDecl, syntax *ast.File) {
	t.Helper()
	base := syntax.FileStart
	lines := strings.Count(string(text[f.Pos()-base:f.End()-base]), "\n") + 1
	limit := functionLines
	switch {
	case f.Name.Name == "main":
		limit = mainLines
	case isStep(f):
		limit = stepLines
	}
	if lines > limit {
		t.Errorf("%s: %s has %d lines, more than %d", file, f.Name.Name, lines, limit)
	}
}

// isStep tells a function that ends with an outcome.
func isStep(f *ast.FuncDecl) bool {
	if f.Type.Results == nil || f.Type.Results.NumFields() != 1 {
		return false
	}
	s, ok := f.Type.Results.List[0].Type.(*ast.SelectorExpr)
	return ok && fmt.Sprint(s.X) == "step" && s.Sel.Name == "Outcome"
}

// A folder or file without a noun has no home.
func TestNames(t *testing.T) {
	t.Parallel()
	banned := []string{"util", "utils", "common", "helper", "helpers", "manager", "misc", "pkg", "base", "core", "impl"}
	for file := range sources(t) {
		for part := range strings.SplitSeq(strings.TrimSuffix(filepath.ToSlash(file), ".go"), "/") {
			if slices.Contains(banned, strings.TrimSuffix(part, "_test")) {
				t.Errorf("%s: %s says nothing about what it is", file, part)
			}
		}
	}
}

// sources are the hand-written Go files of the module.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != "." && (strings.HasPrefix(name, ".") || name == "bin" || name == "hack" || name == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" || strings.HasPrefix(name, "zz_") {
			return nil
		}
		files[filepath.ToSlash(path)], err = parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("only %d files were found", len(files))
	}
	return files
}
