package claim

import (
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestAMoveWakesTheClaim(t *testing.T) {
	t.Parallel()
	on := func(id, version, wanted string) *v1alpha1.DatabaseClaim {
		c := &v1alpha1.DatabaseClaim{Spec: v1alpha1.DatabaseClaimSpec{DBVersion: wanted}}
		if id != "" {
			c.Status.Server = &v1alpha1.ServerStatus{ID: id, Version: version}
		}
		return c
	}
	for name, tc := range map[string]struct {
		before, after *v1alpha1.DatabaseClaim
		want          bool
	}{
		"whose version is nobody's concern":                  {on("a", "15.1", ""), on("b", "17.2", ""), true},
		"to the version that it asks for":                    {on("a", "15.1", "17"), on("b", "17.2", "17"), true},
		"not while it asks for the version before":           {on("a", "15.1", "15"), on("b", "17.2", "15"), false},
		"not when its server is another version":             {on("a", "15.1", "17"), on("a", "17.2", "17"), false},
		"not when it is given its first server by its steps": {on("", "", ""), on("a", "", ""), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := moved.Update(event.UpdateEvent{ObjectOld: tc.before, ObjectNew: tc.after}); got != tc.want {
				t.Errorf("it is %t", got)
			}
		})
	}
}
