package image_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/berth-dev/berth/e2e/image"
	"github.com/berth-dev/berth/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func write(t *testing.T, name string, images ...image.Image) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := image.Write(file, name, images...); err != nil {
		t.Fatal(err)
	}
	return file
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// load reads an archive back, as docker does.
func load(t *testing.T, file string) (*v1.ConfigFile, map[string]*tar.Header) {
	t.Helper()
	loaded, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := loaded.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := loaded.Layers()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*tar.Header{}
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for in := tar.NewReader(content); ; {
			header, err := in.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			files["/"+strings.TrimSuffix(header.Name, "/")] = header
		}
	}
	return config, files
}

// folder is a small tree on this machine, whose files are of the given time.
func folder(t *testing.T, at time.Time) string {
	t.Helper()
	dir := t.TempDir()
	for name, mode := range map[string]fs.FileMode{"program": 0o750, "data": 0o640} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("program", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTheSameFilesMakeTheSameBytes(t *testing.T) {
	t.Parallel()
	build := func(at time.Time) image.Image {
		tree := image.NewTree()
		tree.Scratch("/tmp")
		if err := tree.AddFolder("/opt/a", folder(t, at), nil); err != nil {
			t.Fatal(err)
		}
		tree.Write("/etc/text", "x")
		return image.Image{Architecture: "amd64", Files: tree, User: "1:1", Labels: map[string]string{"a": "1", "b": "2"}}
	}
	now := time.Now()
	one, two := read(t, write(t, "a:1", build(now))), read(t, write(t, "a:1", build(now.Add(-time.Hour))))
	if !bytes.Equal(one, two) {
		t.Error("files of another time make another archive")
	}
	_, files := load(t, write(t, "a:1", build(now)))
	modes := map[string]int64{}
	for name, header := range files {
		modes[name] = header.Mode
		if header.Uid != 0 || header.ModTime.Unix() != 0 {
			t.Errorf("%s is of %d, made at %s", name, header.Uid, header.ModTime)
		}
	}
	want := map[string]int64{
		"/etc": 0o755, "/etc/text": 0o644, "/opt": 0o755, "/opt/a": 0o755, "/opt/a/program": 0o755, "/opt/a/data": 0o644, "/opt/a/link": 0o777, "/tmp": 0o1777,
	}
	if diff := cmp.Diff(want, modes); diff != "" {
		t.Error(diff)
	}
}

// One archive serves each machine with its own image.
func TestAnArchiveHoldsAnImageForEachArchitecture(t *testing.T) {
	t.Parallel()
	var images []image.Image
	for _, architecture := range []string{"amd64", "arm64"} {
		tree := image.NewTree()
		tree.Write("/etc/architecture", architecture)
		tree.Write("/etc/shared", "x")
		images = append(images, image.Image{Architecture: architecture, Files: tree})
	}
	blobs := map[string][]byte{}
	for in := tar.NewReader(bytes.NewReader(read(t, write(t, "team/name:7", images...)))); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := blobs[header.Name]; twice {
			t.Errorf("%s is in the archive twice", header.Name)
		}
		if blobs[header.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
	outer, inner := v1.IndexManifest{}, v1.IndexManifest{}
	decode(t, blobs["index.json"], &outer)
	if name := outer.Manifests[0].Annotations["io.containerd.image.name"]; name != "docker.io/team/name:7" {
		t.Errorf("its name is %q", name)
	}
	decode(t, blobs["blobs/sha256/"+outer.Manifests[0].Digest.Hex], &inner)
	var platforms []string
	for _, m := range inner.Manifests {
		manifest, config := v1.Manifest{}, v1.ConfigFile{}
		decode(t, blobs["blobs/sha256/"+m.Digest.Hex], &manifest)
		decode(t, blobs["blobs/sha256/"+manifest.Config.Digest.Hex], &config)
		if blobs["blobs/sha256/"+manifest.Layers[0].Digest.Hex] == nil {
			t.Errorf("the files of %s are not there", m.Platform)
		}
		platforms = append(platforms, m.Platform.String()+" "+config.Architecture)
	}
	if diff := cmp.Diff([]string{"linux/amd64 amd64", "linux/arm64 arm64"}, platforms); diff != "" {
		t.Error(diff)
	}
}

func decode(t *testing.T, text []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

// berth is the image of berth, with one program in both places.
func berth(t *testing.T) (image.Image, *image.System) {
	t.Helper()
	system, err := image.Installed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	programs := t.TempDir()
	for _, name := range []string{"berth", "berth-agent"} {
		if err := os.Symlink(testkit.Program(t), filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	i, err := image.Berth(system, programs)
	if err != nil {
		t.Fatal(err)
	}
	return i, system
}

func TestBerthsImageHoldsWhatItRunsAndNoMore(t *testing.T) {
	t.Parallel()
	i, _ := berth(t)
	config, files := load(t, write(t, "berth:1", i))
	if config.Config.User != "65532:65532" {
		t.Errorf("it runs as %q", config.Config.User)
	}
	for _, name := range []string{"/usr/bin/berth", "/usr/bin/berth-agent", "/usr/bin/pgbouncer", "/etc/ssl/certs/ca-certificates.crt"} {
		if files[name] == nil || files[name].Size == 0 {
			t.Errorf("%s is not in it", name)
		}
	}
	for name, header := range files {
		if name != "/tmp" && header.Typeflag != tar.TypeSymlink && header.Mode&0o022 != 0 || header.Mode&0o6000 != 0 {
			t.Errorf("%s has mode %o", name, header.Mode)
		}
		if filepath.Base(name) == "sh" || filepath.Base(name) == "bash" {
			t.Errorf("there is a shell, %s", name)
		}
	}
	libraries := 0
	for name := range files {
		if strings.Contains(name, ".so") {
			libraries++
		}
	}
	if libraries < 5 || libraries > 30 {
		t.Errorf("it has %d libraries", libraries)
	}
	if err := i.Files.Complete("/nowhere"); err != nil {
		t.Errorf("a program lacks something: %v", err)
	}
}

func TestTheBillOfMaterialsNamesModulesAndPackages(t *testing.T) {
	t.Parallel()
	i, system := berth(t)
	materials, err := i.Files.Materials(system)
	if err != nil {
		t.Fatal(err)
	}
	text, err := materials.SPDX("berth:1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := materials.SPDX("berth:1")
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("a second one differs: %v", err)
	}
	for _, want := range []string{"pkg:golang/github.com/jackc/pgx/v5@v5.", "pkg:golang/stdlib@1.", "pkg:deb/debian/pgbouncer@1.", "pkg:deb/debian/libc6@", "pkg:deb/debian/ca-certificates@", `"SPDX-2.3"`} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("it lacks %s", want)
		}
	}
	if bytes.Contains(text, []byte(os.TempDir())) {
		t.Error("it tells a folder of this machine")
	}
	stray := filepath.Join(t.TempDir(), "stray")
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := i.Files.Add("/usr/bin/stray", stray); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Files.Materials(system); err == nil {
		t.Error("a file of no package is let in")
	}
}

func TestAProgramWhoseLibraryIsMissingIsRefused(t *testing.T) {
	t.Parallel()
	tree := image.NewTree()
	if err := tree.Add("/usr/bin/pgbouncer", testkit.Bin(t, "pgbouncer")); err != nil {
		t.Fatalf("%v; run: make tools", err)
	}
	if err := tree.Complete(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is completed from an empty folder: %v", err)
	}
}
