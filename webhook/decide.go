package webhook

import (
	"fmt"
	"slices"

	"gomodules.xyz/jsonpatch/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// Found is what the pod's namespace holds under the claim's name.
type Found struct {
	Exists     bool
	Class      string // empty when the claim leaves it to another
	SecretName string
}

// Injection is what a pod gets in addition to what it has.
type Injection struct {
	Sidecars []corev1.Container // go before the pod's own init containers
	Volumes  []corev1.Volume
	Warnings []string // for whoever makes the pod
}

// Agent is what sidecars are made of.
type Agent struct {
	Image       string
	Switchboard *Switchboard // nil: proxies report to nobody
}

// Decide says what to inject, from the pod, the claim and the agent alone. What
// is there already is left out, so that a second call injects nothing. An error
// means that the pod cannot be what its labels say.
func Decide(pod *corev1.Pod, found Found, from Agent) (Injection, error) {
	ask := ReadAsk(pod.Labels)
	var out Injection
	switch {
	case !ask.Proxy && !ask.Exec:
		return out, nil
	case ask.Claim == "":
		return out.warn("label %s%s is empty: nothing is injected", ownPrefix, claimKey), nil
	case ask.Exec && ask.ExecConfig == "":
		return Injection{}, fmt.Errorf("label %s%s is missing: name the Secret whose key config.yaml says what dsnexec runs", ownPrefix, execConfigKey)
	case pod.Spec.HostNetwork:
		return out.warn("the pod uses the node's network, where every other program could use its proxy: nothing is injected"), nil
	case found.Exists && ask.Class != "" && found.Class != "" && ask.Class != found.Class:
		return out.warn("claim %q is of class %q, not %q as label %s%s says: nothing is injected", ask.Claim, found.Class, ask.Class, ownPrefix, classKey), nil
	}
	secret := found.SecretName
	if !found.Exists {
		secret = ask.Claim
		out = out.warn("there is no DatabaseClaim or RoleClaim %q in this namespace yet: the pod waits for Secret %q, and has to be made again if the claim names another", ask.Claim, secret)
	}
	credential := secretVolume(credentialVolume, secret)
	if ask.Proxy {
		sidecar, volumes := proxy(from.Image, pod.Spec.TerminationGracePeriodSeconds), []corev1.Volume{credential, stateVolume(proxyVolume)}
		// Without an account, as where no plugin of the API server sets one, there is no token.
		if from.Switchboard != nil && pod.Spec.ServiceAccountName != "" {
			sidecar, volumes = from.Switchboard.join(sidecar, ask.Claim), append(volumes, projectedToken())
		}
		out = out.add(pod, sidecar, volumes...)
	}
	if ask.Exec {
		out = out.add(pod, exec(from.Image), credential, secretVolume(configVolume, ask.ExecConfig), stateVolume(execVolume))
	}
	return out, nil
}

// add takes the container and its volumes in, all or nothing.
func (i Injection) add(pod *corev1.Pod, c corev1.Container, volumes ...corev1.Volume) Injection {
	for _, has := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if has.Name != c.Name {
			continue
		}
		if ours(has, c) {
			return i
		}
		return i.warn("the pod has a container %q of its own, which is left alone: nothing is injected for it", c.Name)
	}
	for _, v := range volumes {
		at := slices.IndexFunc(pod.Spec.Volumes, func(has corev1.Volume) bool { return has.Name == v.Name })
		if at >= 0 && !serves(pod.Spec.Volumes[at], v) {
			return i.warn("the pod has another volume %q of its own: %s is not injected", v.Name, c.Name)
		}
	}
	i.Sidecars = append(i.Sidecars, c)
	for _, v := range volumes {
		named := func(has corev1.Volume) bool { return has.Name == v.Name }
		if !slices.ContainsFunc(pod.Spec.Volumes, named) && !slices.ContainsFunc(i.Volumes, named) {
			i.Volumes = append(i.Volumes, v)
		}
	}
	return i
}

func (i Injection) warn(format string, args ...any) Injection {
	i.Warnings = append(i.Warnings, "berth: "+fmt.Sprintf(format, args...))
	return i
}

// ours knows a container that an earlier call injected, whatever other webhooks
// have added to it since.
func ours(has, c corev1.Container) bool {
	return len(has.Command) > 1 && slices.Equal(has.Command[:2], c.Command[:2])
}

// serves tells whether a volume that is there can stand for ours: the same
// Secret, a token for the same audience, or any empty folder for the state.
func serves(has, want corev1.Volume) bool {
	if want.Secret != nil {
		return has.Secret != nil && has.Secret.SecretName == want.Secret.SecretName
	}
	if want.Projected != nil {
		return equality.Semantic.DeepEqual(has.Projected, want.Projected)
	}
	return has.EmptyDir != nil
}

// Patch only adds. A diff of the whole pod would also touch fields that this
// version of berth does not know.
func (i Injection) Patch(pod *corev1.Pod) []jsonpatch.Operation {
	var patch []jsonpatch.Operation
	if len(pod.Spec.InitContainers) == 0 && len(i.Sidecars) > 0 {
		patch = append(patch, jsonpatch.NewOperation("add", "/spec/initContainers", i.Sidecars))
	} else {
		for at, c := range i.Sidecars {
			patch = append(patch, jsonpatch.NewOperation("add", fmt.Sprintf("/spec/initContainers/%d", at), c))
		}
	}
	if len(pod.Spec.Volumes) == 0 && len(i.Volumes) > 0 {
		return append(patch, jsonpatch.NewOperation("add", "/spec/volumes", i.Volumes))
	}
	for _, v := range i.Volumes {
		patch = append(patch, jsonpatch.NewOperation("add", "/spec/volumes/-", v))
	}
	return patch
}
