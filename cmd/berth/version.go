package main

import (
	"fmt"
	"runtime/debug"
)

// version is set when a release is built.
var version = "development"

// VersionCmd prints the version.
type VersionCmd struct{}

// Run prints the version, and the commit where the build knows it.
func (VersionCmd) Run() error {
	commit := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = " (" + s.Value + ")"
			}
		}
	}
	_, err := fmt.Println("berth " + version + commit)
	return err
}
