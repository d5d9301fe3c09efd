package local

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/backend"
)

// Reasons why a server is not usable.
const (
	Absent               = "Absent"
	Starting             = "Starting"
	Stopped              = "Stopped"
	Crashed              = "Crashed"
	Deleting             = "Deleting"
	NotMade              = "NotMade"
	NotRemoved           = "NotRemoved"
	DataMissing          = "DataMissing"
	RecordMalformed      = "RecordMalformed"
	VersionUnavailable   = "VersionUnavailable"
	VersionMismatch      = "VersionMismatch"
	AccountMissing       = "AccountMissing"
	FolderNotTraversable = "FolderNotTraversable"
)

// refuse says what stands in the way of want and does not go away by waiting.
func (b *Backend) refuse(want backend.Server, s *server) (backend.Observed, bool) {
	if s != nil && (s.broken || s.record.Deleting) {
		return s.found, true
	}
	no := func(reason, format string, args ...any) (backend.Observed, bool) {
		return backend.Observed{Exists: s != nil, Permanent: true, Reason: reason, Message: fmt.Sprintf(format, args...)}, true
	}
	major, minor := b.major(want, s), wishedMinor(want)
	if s != nil && s.record.Made && s.record.Major != major {
		return no(VersionMismatch, "The server's data is of PostgreSQL %d, and %d is asked for. Moving to another major version is a migration: ask for %d.",
			s.record.Major, major, s.record.Major)
	}
	if have, ok := b.majors[major]; !ok || have < minor {
		return no(VersionUnavailable, "PostgreSQL %s is not on this machine; there is %s.", wished(major, minor), b.versions())
	}
	if s != nil && s.found.Usable {
		return backend.Observed{}, false
	}
	if reason, message := b.account.check(b.options.Dir, b.program(major, "postgres")); reason != "" {
		return no(reason, "%s", message)
	}
	return backend.Observed{}, false
}

// major is the version that want asks for, else the one that s has, else the default.
func (b *Backend) major(want backend.Server, s *server) int {
	if text := version(want); text != "" {
		text, _, _ = strings.Cut(text, ".")
		n, _ := strconv.Atoi(text) // what is no number is no version that there is
		return n
	}
	if s != nil && s.record.Made {
		return s.record.Major
	}
	if b.options.DefaultMajor != 0 {
		return b.options.DefaultMajor
	}
	return slices.Max(slices.Collect(maps.Keys(b.majors)))
}

func version(want backend.Server) string {
	if want.Wishes.Version == "" && want.Class != nil {
		return want.Class.Spec.DBVersion
	}
	return want.Wishes.Version
}

// wishedMinor is the oldest minor version that will do: a newer one only has more mended.
func wishedMinor(want backend.Server) int {
	_, minor, _ := strings.Cut(version(want), ".")
	n, _ := strconv.Atoi(minor)
	return n
}

func wished(major, minor int) string {
	if minor == 0 {
		return strconv.Itoa(major)
	}
	return fmt.Sprintf("%d.%d or later", major, minor)
}

func (b *Backend) versions() string {
	var names []string
	for _, major := range slices.Sorted(maps.Keys(b.majors)) {
		names = append(names, fmt.Sprintf("%d.%d", major, b.majors[major]))
	}
	return strings.Join(names, ", ")
}
