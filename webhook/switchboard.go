package webhook

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// SwitchboardNotice is the ConfigMap by which the switchboard tells where it is.
const SwitchboardNotice = "berth-switchboard"

// Switchboard is what a proxy needs to reach it. Nothing of it is secret.
type Switchboard struct {
	Address     string // host:port
	Authorities string // PEM
}

const (
	noticeAddress     = "address"
	noticeAuthorities = "ca.crt"
)

// Notice is the content of the ConfigMap.
func (s Switchboard) Notice() map[string]string {
	return map[string]string{noticeAddress: s.Address, noticeAuthorities: s.Authorities}
}

// readNotice is nil while there is no switchboard.
func readNotice(ctx context.Context, api client.Reader) (*Switchboard, error) {
	notice := &corev1.ConfigMap{}
	err := api.Get(ctx, client.ObjectKey{Namespace: Namespace, Name: SwitchboardNotice}, notice)
	if client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("reading ConfigMap %s: %w", SwitchboardNotice, err)
	}
	s := Switchboard{Address: notice.Data[noticeAddress], Authorities: notice.Data[noticeAuthorities]}
	if s.Address == "" || s.Authorities == "" {
		return nil, nil
	}
	return &s, nil
}

// The token by which a proxy says which pod it is: for the switchboard alone,
// short-lived, and mounted into the proxy alone.
const (
	tokenVolume   = "berth-token"
	tokenFolder   = "/var/run/berth/token"
	tokenAudience = "berth.dev"
	tokenLife     = 600 // seconds
)

// join has the proxy of claim report to the switchboard.
func (s Switchboard) join(c corev1.Container, claim string) corev1.Container {
	c.Env = append(c.Env,
		corev1.EnvVar{Name: "BERTH_CLAIM", Value: claim},
		corev1.EnvVar{Name: "BERTH_SWITCHBOARD", Value: s.Address},
		corev1.EnvVar{Name: "BERTH_SWITCHBOARD_CA", Value: s.Authorities},
		corev1.EnvVar{Name: "BERTH_SWITCHBOARD_TOKEN", Value: tokenFolder + "/token"},
	)
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: tokenVolume, MountPath: tokenFolder, ReadOnly: true})
	return c
}

func projectedToken() corev1.Volume {
	return corev1.Volume{Name: tokenVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To(int32(0o444)),
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
			Audience: tokenAudience, ExpirationSeconds: ptr.To(int64(tokenLife)), Path: "token",
		}}},
	}}}
}

// Sidecar is one of ours in a pod, with the image it runs.
type Sidecar struct{ Kind, Image string }

// Injected are the sidecars that a pod has.
func Injected(pod *corev1.Pod) []Sidecar {
	var out []Sidecar
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if len(c.Command) > 1 && c.Command[0] == agent && (c.Command[1] == proxyName || c.Command[1] == execName) {
			out = append(out, Sidecar{c.Command[1], c.Image})
		}
	}
	return out
}
