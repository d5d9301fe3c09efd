package image

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// triplets are the folders in which Debian keeps libraries, and where its
// loader looks without being told.
var triplets = map[elf.Machine]string{elf.EM_X86_64: "x86_64-linux-gnu", elf.EM_AARCH64: "aarch64-linux-gnu"}

// Complete adds the loader and the libraries that the programs of the tree need
// and it lacks, from the Debian system at root. A program's own search path
// counts first, as the loader has it. What a program loads by name while it
// runs is not seen.
func (t *Tree) Complete(root string) error {
	var open []string
	for to, e := range t.entries {
		if e.from != "" {
			open = append(open, to)
		}
	}
	slices.Sort(open)
	for ; len(open) > 0; open = open[1:] {
		added, err := t.complete(root, open[0])
		if err != nil {
			return fmt.Errorf("completing %s: %w", open[0], err)
		}
		open = append(open, added...)
	}
	return nil
}

func (t *Tree) complete(root, to string) (added []string, err error) {
	program, err := elf.Open(t.entries[to].from)
	if notELF := (*elf.FormatError)(nil); errors.As(err, &notELF) || errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer program.Close()
	triplet, ok := triplets[program.Machine]
	if !ok {
		return nil, fmt.Errorf("no libraries are known for %s", program.Machine)
	}
	loader, err := interpreter(program)
	if err != nil {
		return nil, err
	}
	if loader != "" && !t.Has(loader) {
		if err := t.Add(loader, filepath.Join(root, loader)); err != nil {
			return nil, err
		}
	}
	names, err := program.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if t.finds(program, to, triplet, name) {
			continue
		}
		from, err := find(root, triplet, name)
		if err != nil {
			return nil, err
		}
		at := path.Join("/usr/lib", triplet, name)
		if err := t.Add(at, from); err != nil {
			return nil, err
		}
		added = append(added, at)
	}
	return added, nil
}

// interpreter is the loader that a program names; libraries name none.
func interpreter(program *elf.File) (string, error) {
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			text, err := io.ReadAll(p.Open())
			return strings.TrimRight(string(text), "\x00"), err
		}
	}
	return "", nil
}

// finds tells whether the loader will find the library in the tree.
func (t *Tree) finds(program *elf.File, to, triplet, name string) bool {
	folders := []string{path.Join("/usr/lib", triplet)}
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		paths, err := program.DynString(tag)
		if err != nil {
			continue // a program that is not dynamic has none
		}
		for _, p := range paths {
			for folder := range strings.SplitSeq(p, ":") {
				folders = append(folders, strings.NewReplacer("$ORIGIN", path.Dir(to), "${ORIGIN}", path.Dir(to)).Replace(folder))
			}
		}
	}
	return strings.HasPrefix(name, "ld-linux") || slices.ContainsFunc(folders, func(folder string) bool { return t.Has(path.Join(folder, name)) })
}

func find(root, triplet, name string) (string, error) {
	for _, folder := range []string{"usr/lib/" + triplet, "lib/" + triplet, "usr/lib", "lib"} {
		at := filepath.Join(root, folder, name)
		if _, err := os.Stat(at); err == nil {
			return at, nil
		}
	}
	return "", fmt.Errorf("finding library %s below %s: %w", name, root, os.ErrNotExist)
}
