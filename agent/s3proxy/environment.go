package s3proxy

import (
	"slices"
	"strings"
)

// The pair a client signs with. The proxy replaces what it signed; that a
// request carries this pair proves nothing.
const (
	DummyAccessKey = "berth-proxy-dummy-access-key"
	DummySecretKey = "berth-proxy-dummy-secret-key" //nolint:gosec // opens nothing
)

// ambient is what would lend a client an identity other than the session.
var ambient = []string{
	"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN",
	"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN",
	"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE",
}

// Environment is what a client of the proxy at endpoint (HOST:PORT) runs with:
// no identity of the surroundings, the dummy pair, and BERTH_S3_ENDPOINT.
func Environment(surroundings []string, endpoint string) []string {
	kept := slices.DeleteFunc(slices.Clone(surroundings), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(ambient, name)
	})
	return append(kept, "AWS_ACCESS_KEY_ID="+DummyAccessKey, "AWS_SECRET_ACCESS_KEY="+DummySecretKey,
		"AWS_EC2_METADATA_DISABLED=true", "BERTH_S3_ENDPOINT="+endpoint)
}
