package duckling

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// composed is how many of a composite's resources are looked at in one pass.
const composed = 20

// fault says which composed resource is at fault and why, in the provider's
// own words; or what the composite itself says, when none tells.
func (p *Provider) fault(ctx context.Context, composite *unstructured.Unstructured) string {
	refs, found, _ := unstructured.NestedSlice(composite.Object, "spec", "crossplane", "resourceRefs")
	if !found {
		refs, _, _ = unstructured.NestedSlice(composite.Object, "spec", "resourceRefs")
	}
	var faults []string
	for _, entry := range refs[:min(len(refs), composed)] {
		if ref, ok := entry.(map[string]any); ok {
			if text := p.faultOf(ctx, composite, ref); text != "" {
				faults = append(faults, text)
			}
		}
	}
	if len(faults) > 0 {
		return scrub(strings.Join(faults, "; "))
	}
	for _, c := range statusOf(composite).Conditions {
		if (c.Type == "Ready" || c.Type == "Synced") && c.Status != metav1.ConditionTrue && c.Message != "" {
			return scrub(c.Message)
		}
	}
	return ""
}

// faultOf is empty for what holds, and for what has no conditions to tell by.
func (p *Provider) faultOf(ctx context.Context, composite *unstructured.Unstructured, ref map[string]any) string {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion(text(ref, "apiVersion"))
	o.SetKind(text(ref, "kind"))
	group := o.GroupVersionKind().Group
	if group == "" || group == "protection.crossplane.io" || text(ref, "name") == "" {
		return "" // Secrets and the like have no conditions
	}
	namespace := text(ref, "namespace")
	if namespace == "" {
		namespace = composite.GetNamespace()
	}
	what := o.GetKind() + " " + text(ref, "name")
	err := p.Live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: text(ref, "name")}, o)
	switch {
	case apierrors.IsNotFound(err):
		return what + ": does not exist yet"
	case meta.IsNoMatchError(err):
		return fmt.Sprintf("%s: this cluster does not know %s", what, o.GetAPIVersion())
	case apierrors.IsForbidden(err):
		return what + ": berth may not read it"
	case err != nil:
		return ""
	}
	conditions := statusOf(o).Conditions
	for _, kind := range []string{"Synced", "Ready"} {
		if c := meta.FindStatusCondition(conditions, kind); c != nil && c.Status == metav1.ConditionFalse {
			return what + ": " + strings.TrimSpace(c.Reason+" "+c.Message)
		}
	}
	return ""
}

func text(of map[string]any, key string) string {
	s, _ := of[key].(string)
	return s
}

var secretive = regexp.MustCompile(`(://[^:/@\s]*:)[^@\s]+@|(?i)((?:password|secret|token)["']?\s*[=:]\s*["']?)[^\s"',;]+`)

// scrub takes passwords out of what others say.
func scrub(s string) string {
	return secretive.ReplaceAllStringFunc(s, func(found string) string {
		m := secretive.FindStringSubmatch(found)
		if m[1] != "" {
			return m[1] + "…@"
		}
		return m[2] + "…"
	})
}
