package main

import (
	"path/filepath"
	"strings"
)

// programName is how people call this program: kubectl finds it as its plugin
// when it is linked as kubectl-berth.
func programName(argv0 string) string {
	name := strings.TrimSuffix(filepath.Base(argv0), ".exe")
	if plugin, ok := strings.CutPrefix(name, "kubectl-"); ok {
		return "kubectl " + strings.ReplaceAll(plugin, "_", "-")
	}
	return name
}
