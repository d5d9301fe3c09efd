package webhook

import "cmp"

// Prefixes of the two label families. Where a pod has a key of both, berth's
// own counts.
const (
	ownPrefix     = "berth.dev/"
	foreignPrefix = "persistance.atlas.infoblox.com/" // db-controller's
)

// Keys behind either prefix.
const (
	claimKey      = "claim"
	classKey      = "class"
	proxyKey      = "dbproxy"
	execKey       = "dsnexec"
	execConfigKey = "dsnexec-config"
)

const enabled = "enabled"

// Ask is what a pod's labels ask for.
type Ask struct {
	Claim      string // DatabaseClaim or RoleClaim of the pod's namespace
	Class      string // when set, the claim has to be of it
	Proxy      bool
	Exec       bool
	ExecConfig string // Secret with config.yaml
}

// ReadAsk reads both label families. Any value but "enabled", such as
// "disabled", asks for nothing.
func ReadAsk(labels map[string]string) Ask {
	read := func(key string) string {
		return cmp.Or(labels[ownPrefix+key], labels[foreignPrefix+key])
	}
	return Ask{
		Claim: read(claimKey), Class: read(classKey), ExecConfig: read(execConfigKey),
		Proxy: read(proxyKey) == enabled, Exec: read(execKey) == enabled,
	}
}
