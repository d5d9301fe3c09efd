// Package image builds container images from files, without a daemon: the
// image of berth, and those that the stories run beside it.
//
// The same files make the same bytes: times, owners and order are fixed. It
// pulls and pushes nothing.
package image

import (
	"bytes"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is what a container of one platform starts from.
type Image struct {
	Architecture string // of Linux, as Go names it: amd64, arm64
	Files        *Tree
	Entrypoint   []string
	User         string // uid:gid
	Env          []string
	Labels       map[string]string
}

// build makes the image of one layer. It is compressed at the lowest level:
// archives are read more often than sent.
func (i Image) build() (v1.Image, error) {
	var files bytes.Buffer
	if err := i.Files.tar(&files); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(1), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("compressing files: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, fmt.Errorf("appending layer: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", i.Architecture
	config.Config = v1.Config{Entrypoint: i.Entrypoint, User: i.User, Env: i.Env, Labels: i.Labels, WorkingDir: "/"}
	return mutate.ConfigFile(image, config)
}
