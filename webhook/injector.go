// Package webhook puts dbproxy and dsnexec into the pods whose labels ask for
// them, while the API server admits them, and keeps the certificates that this
// takes.
//
// It reads claims and changes nothing but pods in the making, its own Secret
// and its own registration. It never reads a credential.
package webhook

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Path is where the webhook answers.
const Path = "/mutate-v1-pod"

// lookupTimeout leaves the API server, which waits 5 s, time to get the answer.
const lookupTimeout = 4 * time.Second

// Injector answers the API server about one pod at a time. API must not be
// cached: a claim may be made the moment before its pod.
type Injector struct {
	API   client.Reader
	Image string // with berth-agent and what it runs
	Log   *slog.Logger
}

// Handle patches the pod, and says in warnings what its maker should know.
func (i *Injector) Handle(ctx context.Context, req admission.Request) admission.Response {
	if req.Operation != admissionv1.Create {
		return admission.Allowed("")
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(req.Object.Raw, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("reading pod: %w", err))
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := i.find(ctx, req.Namespace, ReadAsk(pod.Labels).Claim)
	if err != nil {
		i.Log.Error("looking up claim", "namespace", req.Namespace, "pod", cmp.Or(pod.Name, pod.GenerateName), "error", err)
		return admission.Errored(http.StatusInternalServerError, err)
	}
	switchboard, err := readNotice(ctx, i.API)
	if err != nil {
		i.Log.Error("looking up the switchboard", "error", err)
		return admission.Errored(http.StatusInternalServerError, err)
	}
	injection, err := Decide(pod, found, Agent{i.Image, switchboard})
	if err != nil {
		return admission.Denied("berth: " + err.Error())
	}
	i.Log.Debug("answered", "namespace", req.Namespace, "pod", cmp.Or(pod.Name, pod.GenerateName), "sidecars", len(injection.Sidecars), "warnings", injection.Warnings)
	response := admission.Allowed("")
	if patch := injection.Patch(pod); len(patch) > 0 {
		response = admission.Patched("", patch...)
	}
	return response.WithWarnings(injection.Warnings...)
}

// find looks for a RoleClaim first: it is the narrower login.
func (i *Injector) find(ctx context.Context, namespace, name string) (Found, error) {
	if name == "" {
		return Found{}, nil
	}
	key := client.ObjectKey{Namespace: namespace, Name: name}
	role := &v1alpha1.RoleClaim{}
	err := i.API.Get(ctx, key, role)
	if err == nil {
		return Found{Exists: true, Class: role.Spec.Class, SecretName: cmp.Or(role.Spec.SecretName, name)}, nil
	}
	if !apierrors.IsNotFound(err) {
		return Found{}, fmt.Errorf("reading RoleClaim %s: %w", name, err)
	}
	claim := &v1alpha1.DatabaseClaim{}
	err = i.API.Get(ctx, key, claim)
	if err == nil {
		return Found{Exists: true, Class: claim.Spec.Class, SecretName: cmp.Or(claim.Spec.SecretName, name)}, nil
	}
	if !apierrors.IsNotFound(err) {
		return Found{}, fmt.Errorf("reading DatabaseClaim %s: %w", name, err)
	}
	return Found{}, nil
}
