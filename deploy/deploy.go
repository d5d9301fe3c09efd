// Package deploy holds what a cluster needs before berth runs there: the
// definitions of its kinds, and the admission rules that CEL in them cannot say.
package deploy

import "embed"

// Files are the manifests, as `berth dev` and the tests apply them.
//
//go:embed crds/*.yaml admission/*.yaml
var Files embed.FS
