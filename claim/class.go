package claim

import (
	"context"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/step"
)

type classScope struct {
	class *v1alpha1.DatabaseClass
}

// ClassPlan keeps a DatabaseClass's server reachable, and the class in place
// until no claim uses it.
func (w *Worker) ClassPlan() step.Plan[*v1alpha1.DatabaseClass, classScope] {
	return step.Plan[*v1alpha1.DatabaseClass, classScope]{
		Kind:      "DatabaseClass",
		Finalizer: naming.Finalizer,
		Root:      v1alpha1.Ready,
		Open: func(_ context.Context, class *v1alpha1.DatabaseClass) (classScope, error) {
			return classScope{class}, nil
		},
		Up: []step.Step[classScope]{
			step.Do(v1alpha1.ServerReachable, w.reachServer).Within(5 * time.Minute),
		},
		Down: []step.Step[classScope]{
			step.Do(v1alpha1.Unused, w.awaitUnused), // no deadline: only people can let go of a class
		},
	}
}

// reachServer brings up the server that all claims of the class share, before
// the first claim needs it. A class of dedicated servers has none.
func (w *Worker) reachServer(ctx context.Context, s classScope) step.Outcome {
	b := w.Finder.Backends[s.class.Spec.Backend]
	if b == nil {
		return step.Blocked("BackendMissing", "This controller does not run backend %s.", s.class.Spec.Backend)
	}
	if unsupported := backend.Unsupported(b, backend.DefaultsOf(s.class)); len(unsupported) > 0 {
		return step.Blocked("NotSupported", "spec.%s: backend %s cannot do this; remove it or choose another backend.", unsupported[0], s.class.Spec.Backend)
	}
	if s.class.Spec.Dedicated {
		return step.Done()
	}
	want := backend.Server{ID: naming.SharedServer(s.class.Name), Class: s.class}
	found, err := b.Observe(ctx, want)
	if err != nil {
		return backend.Outcome(err)
	}
	if !found.Usable {
		if err := b.Apply(ctx, want); err != nil {
			return backend.Outcome(err)
		}
		return found.Finding()
	}
	if _, err := w.Servers.Get(found.Admin).Facts(ctx); err != nil {
		return backend.Outcome(err)
	}
	return step.Done()
}

// awaitUnused waits for the last claim to go; its deletion wakes the class.
func (w *Worker) awaitUnused(ctx context.Context, s classScope) step.Outcome {
	claims := &v1alpha1.DatabaseClaimList{}
	if err := w.Client.List(ctx, claims, client.MatchingFields{classIndex: s.class.Name}); err != nil {
		return step.Failed("ClaimsUnreadable", err)
	}
	if len(claims.Items) == 0 {
		return step.Done()
	}
	const shown = 5
	var names []string
	for _, claim := range claims.Items[:min(shown, len(claims.Items))] {
		names = append(names, claim.Namespace+"/"+claim.Name)
	}
	return step.Wait(0, "InUse", "%d claims still use this class, such as %s. It goes when they are deleted; until then they keep working.",
		len(claims.Items), strings.Join(names, ", "))
}
