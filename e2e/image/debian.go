package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-dev/berth/process"
)

// System is a Debian system, or packages of one, to take files from.
type System struct {
	Root         string
	Architecture string
	owners       map[string]debianPackage // by path below the root
}

type debianPackage struct{ name, version, architecture string }

const packageFormat = "${Package}\t${Version}\t${Architecture}\n"

// Installed is the system of this machine, which has to be a Debian.
func Installed(ctx context.Context) (*System, error) {
	listed, err := run(ctx, "dpkg-query", "--show", "--showformat", "${binary:Package}\t"+packageFormat)
	if err != nil {
		return nil, fmt.Errorf("listing the packages of this machine: %w", err)
	}
	architecture, err := run(ctx, "dpkg", "--print-architecture")
	if err != nil {
		return nil, fmt.Errorf("reading the architecture of this machine: %w", err)
	}
	s := &System{Root: "/", Architecture: strings.TrimSpace(architecture), owners: map[string]debianPackage{}}
	for line := range strings.Lines(listed) {
		file, described, _ := strings.Cut(line, "\t")
		files, err := os.ReadFile(filepath.Join("/var/lib/dpkg/info", file+".list"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed, and only its configuration is left
		}
		if err != nil {
			return nil, fmt.Errorf("reading the files of %s: %w", file, err)
		}
		for path := range strings.Lines(string(files)) {
			s.owners[merged(strings.TrimSpace(path))] = readPackage(described)
		}
	}
	return s, nil
}

// Fetch unpacks packages of another architecture, and what they depend on, in
// dir. apt gets them from this machine's sources and checks their signatures;
// nothing is installed and its own state stays as it was.
func Fetch(ctx context.Context, architecture, dir string, packages ...string) (*System, error) {
	status, root := filepath.Join(dir, "status"), filepath.Join(dir, "root")
	for _, folder := range []string{filepath.Join(dir, "state", "lists", "partial"), filepath.Join(dir, "cache", "archives", "partial"), root} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, fmt.Errorf("making folder: %w", err)
		}
	}
	if err := os.WriteFile(status, nil, 0o600); err != nil {
		return nil, fmt.Errorf("making folder: %w", err)
	}
	own := []string{
		"-qq", "-o", "Dir::State=" + filepath.Join(dir, "state"), "-o", "Dir::State::status=" + status, "-o", "Dir::Cache=" + filepath.Join(dir, "cache"),
		"-o", "APT::Architecture=" + architecture, "-o", "APT::Architectures=" + architecture, "-o", "APT::Sandbox::User=root",
	}
	if _, err := run(ctx, "apt-get", slices.Concat(own, []string{"update"})...); err != nil {
		return nil, fmt.Errorf("listing packages of %s: %w", architecture, err)
	}
	download := []string{"install", "--download-only", "--yes", "--no-install-recommends"}
	if _, err := run(ctx, "apt-get", slices.Concat(own, download, packages)...); err != nil {
		return nil, fmt.Errorf("fetching packages of %s: %w", architecture, err)
	}
	archives, err := filepath.Glob(filepath.Join(dir, "cache", "archives", "*.deb"))
	if err != nil {
		return nil, err
	}
	s := &System{Root: root, Architecture: architecture, owners: map[string]debianPackage{}}
	for _, archive := range archives {
		if err := s.unpack(ctx, archive); err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", filepath.Base(archive), err)
		}
	}
	return s, nil
}

func (s *System) unpack(ctx context.Context, archive string) error {
	described, err := run(ctx, "dpkg-deb", "--show", "--showformat", packageFormat, archive)
	if err != nil {
		return err
	}
	if _, err := run(ctx, "dpkg-deb", "--extract", archive, s.Root); err != nil {
		return err
	}
	return filepath.WalkDir(s.Root, func(name string, _ fs.DirEntry, err error) error {
		path := merged(strings.TrimPrefix(name, s.Root))
		if _, known := s.owners[path]; !known {
			s.owners[path] = readPackage(described)
		}
		return err
	})
}

func readPackage(line string) debianPackage {
	fields := append(strings.Split(strings.TrimSpace(line), "\t"), "", "", "")
	return debianPackage{fields[0], fields[1], fields[2]}
}

// owner is the package that file of this system is of.
func (s *System) owner(file string) (debianPackage, bool) {
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	p, ok := s.owners[merged("/"+strings.TrimPrefix(strings.TrimPrefix(file, s.Root), "/"))]
	return p, ok
}

// merged is path as it is since /lib is a link to /usr/lib: packages know either.
func merged(path string) string {
	for _, folder := range []string{"/lib/", "/lib64/", "/bin/", "/sbin/"} {
		if strings.HasPrefix(path, folder) {
			return "/usr" + path
		}
	}
	return path
}

// run returns what a program prints, which is part of the error when it fails.
func run(ctx context.Context, program string, args ...string) (string, error) {
	var out bytes.Buffer
	if err := process.Run(ctx, process.Spec{Path: program, Args: args, Env: append(os.Environ(), "LC_ALL=C"), Log: &out}); err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(out.Bytes()))
	}
	return out.String(), nil
}
