// Package webhook holds the registration of the pod webhook. It is apart from
// the other manifests because it is of use only where the webhook is served.
package webhook

import _ "embed"

// Configuration is a MutatingWebhookConfiguration that names the Service of a
// cluster and no certificate authority yet.
//
//go:embed configuration.yaml
var Configuration []byte
