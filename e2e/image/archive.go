package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Write replaces file with an archive of the images, one for each
// architecture, under one name with a tag. It is an OCI layout that every
// runtime imports, and has the list that older versions of docker load by,
// which see the first image.
func Write(file, name string, images ...Image) (err error) {
	temporary := file + ".new"
	out, err := os.Create(temporary)
	if err != nil {
		return fmt.Errorf("making archive: %w", err)
	}
	a := &archive{out: tar.NewWriter(out), has: map[string]bool{}}
	err = errors.Join(a.write(name, images), a.out.Close(), out.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("writing image %s: %w", name, err), os.Remove(temporary))
	}
	return os.Rename(temporary, file)
}

type archive struct {
	out *tar.Writer
	has map[string]bool // what two images share is written once
}

func (a *archive) write(name string, images []Image) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var docker tarball.Manifest
	for _, i := range images {
		image, err := i.build()
		if err != nil {
			return err
		}
		entry, err := a.image(image)
		if err != nil {
			return err
		}
		if docker == nil {
			entry.RepoTags = []string{name}
			docker = tarball.Manifest{entry}
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: i.Architecture}},
		})
	}
	platforms, err := index.RawManifest()
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if err := a.blob(digest, int64(len(platforms)), bytes.NewReader(platforms)); err != nil {
		return err
	}
	_, tag, _ := strings.Cut(name, ":")
	return errors.Join(
		a.json("oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}),
		a.json("index.json", v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{{
			MediaType: types.OCIImageIndex, Size: int64(len(platforms)), Digest: digest,
			Annotations: map[string]string{"io.containerd.image.name": fullName(name), "org.opencontainers.image.ref.name": tag},
		}}}),
		a.json("manifest.json", docker),
	)
}

// fullName is how container runtimes complete a name that names no registry.
func fullName(name string) string {
	switch strings.Count(name, "/") {
	case 0:
		return "docker.io/library/" + name
	case 1:
		return "docker.io/" + name
	}
	return name
}

// image writes all that image is made of.
func (a *archive) image(image v1.Image) (entry tarball.Descriptor, err error) {
	layers, err := image.Layers()
	if err != nil {
		return entry, err
	}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return entry, err
		}
		size, err := layer.Size()
		if err != nil {
			return entry, err
		}
		content, err := layer.Compressed()
		if err != nil {
			return entry, err
		}
		if err := errors.Join(a.blob(digest, size, content), content.Close()); err != nil {
			return entry, err
		}
		entry.Layers = append(entry.Layers, blobPath(digest))
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return entry, err
	}
	of, err := image.ConfigName()
	if err != nil {
		return entry, err
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return entry, err
	}
	digest, err := image.Digest()
	if err != nil {
		return entry, err
	}
	entry.Config = blobPath(of)
	return entry, errors.Join(a.blob(of, int64(len(config)), bytes.NewReader(config)), a.blob(digest, int64(len(manifest)), bytes.NewReader(manifest)))
}

func blobPath(digest v1.Hash) string { return "blobs/" + digest.Algorithm + "/" + digest.Hex }

func (a *archive) blob(digest v1.Hash, size int64, content io.Reader) error {
	path := blobPath(digest)
	if a.has[path] {
		return nil
	}
	a.has[path] = true
	return a.file(path, size, content)
}

func (a *archive) json(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return a.file(path, int64(len(text)), bytes.NewReader(text))
}

func (a *archive) file(path string, size int64, content io.Reader) error {
	if err := a.out.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: size, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := io.Copy(a.out, content)
	return err
}
