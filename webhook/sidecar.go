package webhook

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// Names of what is injected. A pod may bring the volume of the state of dsnexec
// itself, to read the files that dsnexec writes there.
const (
	proxyName        = "dbproxy"
	execName         = "dsnexec"
	credentialVolume = "berth-credential"
	configVolume     = "berth-dsnexec-config"
	proxyVolume      = "berth-dbproxy"
	execVolume       = "berth-dsnexec"
)

// Folders in the containers. Those of dsnexec are db-controller's, since its
// configuration files name them.
const (
	proxyCredential = "/var/run/berth/credential"
	proxyState      = "/var/run/berth/dbproxy"
	execCredential  = "/var/run/db-dsn"
	execConfig      = "/var/run/dsn-exec"
	execState       = "/var/run/berth/dsnexec"
)

const (
	agent         = "berth-agent"
	agentUser     = 65532
	proxyHealth   = "http://127.0.0.1:9127/healthz"
	execHealth    = "http://127.0.0.1:9128/healthz"
	metricsPort   = 9129 // of dbproxy, for Prometheus: figures alone, no name and no secret
	defaultGrace  = 30   // seconds, of Kubernetes
	longestDrain  = 30
	drainHeadroom = 5 // seconds left to end in, after clients are drained
)

// proxy is the dbproxy container. Its drain ends before the pod's grace period
// does, as far as that allows.
func proxy(image string, grace *int64) corev1.Container {
	drain := max(1, min(longestDrain, ptr.Deref(grace, defaultGrace)-drainHeadroom))
	return sidecar(corev1.Container{
		Name: proxyName, Image: image,
		Command: []string{agent, proxyName, "--credentials", proxyCredential, "--state", proxyState, "--drain", fmt.Sprintf("%ds", drain),
			"--metrics-address", fmt.Sprintf(":%d", metricsPort)},
		Ports: []corev1.ContainerPort{{Name: "berth-metrics", ContainerPort: metricsPort, Protocol: corev1.ProtocolTCP}},
		VolumeMounts: []corev1.VolumeMount{
			{Name: credentialVolume, MountPath: proxyCredential, ReadOnly: true},
			{Name: proxyVolume, MountPath: proxyState},
		},
		Resources: resources("10m", "32Mi", "128Mi"),
	}, proxyHealth)
}

func exec(image string) corev1.Container {
	return sidecar(corev1.Container{
		Name: execName, Image: image,
		Command: []string{agent, execName, "run", "--config-file", execConfig + "/config.yaml"},
		Env:     []corev1.EnvVar{{Name: "TMPDIR", Value: execState}},
		VolumeMounts: []corev1.VolumeMount{
			{Name: credentialVolume, MountPath: execCredential, ReadOnly: true},
			{Name: configVolume, MountPath: execConfig, ReadOnly: true},
			{Name: execVolume, MountPath: execState},
		},
		Resources: resources("5m", "16Mi", "64Mi"),
	}, execHealth)
}

// sidecar makes c a native one: it starts before the pod's own containers, ends
// after them, and does not keep a Job from ending.
func sidecar(c corev1.Container, health string) corev1.Container {
	c.ImagePullPolicy = corev1.PullIfNotPresent
	c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	c.SecurityContext = &corev1.SecurityContext{
		RunAsNonRoot:             ptr.To(true),
		RunAsUser:                ptr.To(int64(agentUser)),
		RunAsGroup:               ptr.To(int64(agentUser)),
		ReadOnlyRootFilesystem:   ptr.To(true),
		AllowPrivilegeEscalation: ptr.To(false),
		Privileged:               ptr.To(false),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	// Both ask the agent alone: a database that is down restarts no pod. A
	// sidecar that waits for its claim is never restarted for waiting; the
	// pod's own containers wait with it.
	c.StartupProbe = probe(health, 1, day)
	c.ReadinessProbe = probe(health, 10, 3)
	return c
}

const day = 24 * 60 * 60

func probe(health string, period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:     corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{agent, "probe", health}}},
		PeriodSeconds:    period,
		TimeoutSeconds:   3,
		SuccessThreshold: 1,
		FailureThreshold: failures,
	}
}

// resources has no CPU limit: it would throttle a proxy just when it is busy.
func resources(cpu, memory, limit string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(limit)},
	}
}

// secretVolume is optional, so that a pod starts before its claim is there. Its
// files are readable by any user: the pod's group is not ours to choose, and
// only the sidecars mount it.
func secretVolume(name, secret string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		Secret: &corev1.SecretVolumeSource{SecretName: secret, Optional: ptr.To(true), DefaultMode: ptr.To(int32(0o444))},
	}}
}

// stateVolume is in memory: what is written there holds passwords.
func stateVolume(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("16Mi"))},
	}}
}
