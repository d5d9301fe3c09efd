package role

import (
	"cmp"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/step"
)

// publishCopy keeps the role's Secret equal to the claim's, which wakes this
// role claim whenever it changes.
func (w *Worker) publishCopy(ctx context.Context, s *scope) step.Outcome {
	name := cmp.Or(s.source.Spec.SecretName, s.source.Name)
	original := &corev1.Secret{}
	err := w.Client.Get(ctx, client.ObjectKey{Namespace: s.source.Namespace, Name: name}, original)
	if client.IgnoreNotFound(err) != nil {
		return step.Failed("SecretUnreadable", fmt.Errorf("reading Secret %s/%s: %w", s.source.Namespace, name, err))
	}
	if err != nil {
		return step.Wait(0, "SecretMissing", "The claim's Secret %s/%s is being written.", s.source.Namespace, name)
	}
	return s.rotation.Write(ctx, original.Data)
}
