package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Tree is the files of an image, by absolute path. All belong to root; nothing
// but what Scratch makes can be written by others.
type Tree struct {
	entries map[string]entry
}

// entry is a link, a folder, a text or a file of this machine.
type entry struct {
	mode fs.FileMode
	link string
	text []byte
	of   []string // files of this machine that the text was made of
	from string
}

// NewTree is an empty one.
func NewTree() *Tree { return &Tree{entries: map[string]entry{}} }

// Write puts a text at to, for everybody to read.
func (t *Tree) Write(to, text string) { t.put(to, entry{mode: 0o644, text: []byte(text)}) }

// Script puts a text at to, for everybody to run.
func (t *Tree) Script(to, text string) { t.put(to, entry{mode: 0o755, text: []byte(text)}) }

// Scratch makes a folder at to in which everybody may write.
func (t *Tree) Scratch(to string) { t.put(to, entry{mode: fs.ModeDir | fs.ModeSticky | 0o777}) }

// Link makes a symbolic link at to.
func (t *Tree) Link(to, target string) {
	t.put(to, entry{mode: fs.ModeSymlink | 0o777, link: target})
}

// Has tells whether there is something at to.
func (t *Tree) Has(to string) bool {
	_, ok := t.entries[path.Clean(to)]
	return ok
}

func (t *Tree) put(to string, e entry) {
	to = path.Clean(to)
	t.entries[to] = e
	for dir := path.Dir(to); dir != "/"; dir = path.Dir(dir) {
		if _, there := t.entries[dir]; !there {
			t.entries[dir] = entry{mode: fs.ModeDir | 0o755}
		}
	}
}

// Add puts the file from of this machine at to; a link is followed.
func (t *Tree) Add(to, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("adding %s: %w", to, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("adding %s: %s is no file", to, from)
	}
	mode := fs.FileMode(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	t.put(to, entry{mode: mode, from: from})
	return nil
}

// AddFolder puts the folder from of this machine at to, links as they are. What
// leave reports true of, by its path below the folder, is left out.
func (t *Tree) AddFolder(to, from string, leave func(string) bool) error {
	root, err := filepath.EvalSymlinks(from)
	if err != nil {
		return fmt.Errorf("adding %s: %w", to, err)
	}
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below := filepath.ToSlash(strings.TrimPrefix(name, root))
		switch at := path.Join(to, below); {
		case leave != nil && leave(below):
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case d.IsDir():
			t.put(at, entry{mode: fs.ModeDir | 0o755})
			return nil
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			t.Link(at, target)
			return nil
		default:
			return t.Add(at, name)
		}
	})
	if err != nil {
		return fmt.Errorf("adding %s: %w", to, err)
	}
	return nil
}

// Concat puts files of this machine one after the other at to, for everybody to read.
func (t *Tree) Concat(to string, from ...string) error {
	e := entry{mode: 0o644, of: from}
	for _, name := range from {
		text, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("adding %s: %w", to, err)
		}
		e.text = append(e.text, text...)
	}
	t.put(to, e)
	return nil
}

// sources are the files of this machine that the tree holds.
func (t *Tree) sources() []string {
	var all []string
	for _, e := range t.entries {
		all = append(all, e.of...)
		if e.from != "" {
			all = append(all, e.from)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// tar writes the tree in one order and without times.
func (t *Tree) tar(to io.Writer) error {
	out := tar.NewWriter(to)
	for _, name := range slices.Sorted(maps.Keys(t.entries)) {
		if name == "/" {
			continue
		}
		if err := t.entries[name].tar(out, strings.TrimPrefix(name, "/")); err != nil {
			return fmt.Errorf("packing %s: %w", name, err)
		}
	}
	return out.Close()
}

func (e entry) tar(out *tar.Writer, name string) (err error) {
	header := &tar.Header{Name: name, Mode: int64(e.mode.Perm()), Format: tar.FormatPAX, Typeflag: tar.TypeReg}
	switch {
	case e.mode.IsDir():
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
		if e.mode&fs.ModeSticky != 0 {
			header.Mode |= 0o1000
		}
		return out.WriteHeader(header)
	case e.mode&fs.ModeSymlink != 0:
		header.Typeflag, header.Linkname = tar.TypeSymlink, e.link
		return out.WriteHeader(header)
	case e.from == "":
		header.Size = int64(len(e.text))
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		_, err := out.Write(e.text)
		return err
	}
	file, err := os.Open(e.from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header.Size = info.Size()
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(out, file)
	return err
}
