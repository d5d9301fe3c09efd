package warehouse

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/postgres"
)

var start = time.Date(2026, 3, 25, 12, 0, 0, 0, time.UTC)

func at(minutes float64) *metav1.Time {
	return &metav1.Time{Time: start.Add(time.Duration(minutes * float64(time.Minute)))}
}

// complete is what a provider shows of a warehouse that is up.
func complete() Observed {
	return Observed{
		Exists: true, Ready: true, MetadataStore: &v1alpha1.MetadataStoreStatus{}, DataStore: &v1alpha1.DataStoreStatus{},
		Identity: &v1alpha1.IdentityStatus{}, Login: &postgres.Target{}, Waiting: "Duckling CR created, waiting for resources",
	}
}

// TestJudgementOfAnAttempt walks the components and the judgement over what a
// provider shows, at a minute of an attempt that began at minute 0.
func TestJudgementOfAnAttempt(t *testing.T) {
	t.Parallel()
	unsynced := func(since float64) func(*Observed) {
		return func(o *Observed) {
			o.Ready, o.Unsynced, o.UnsyncedSince = false, "no permission to make a bucket", at(since).Time
		}
	}
	for name, tc := range map[string]struct {
		minute     float64
		seen       func(*Observed)
		status     func(*v1alpha1.WarehouseStatus)
		state      v1alpha1.WarehouseState
		components [4]v1alpha1.WarehouseState
		says       string
		done       bool
	}{
		"everything there at once": {
			minute: 1, state: "provisioning", components: [4]v1alpha1.WarehouseState{"ready", "ready", "ready", "ready"}, done: true,
		},
		"some parts there, the whole not ready": {
			minute: 1, seen: func(o *Observed) { o.Ready, o.Identity = false, nil },
			state: "provisioning", components: [4]v1alpha1.WarehouseState{"provisioning", "provisioning", "provisioning", "provisioning"},
			says: "Duckling CR created, waiting for resources (metadata store, data store, identity, secrets)",
		},
		"one part missing": {
			minute: 1, seen: func(o *Observed) { o.Login = nil },
			state: "provisioning", components: [4]v1alpha1.WarehouseState{"ready", "ready", "ready", "provisioning"},
			says: "Duckling CR created, waiting for resources (secrets)",
		},
		"a composed resource at fault is named": {
			minute: 1, seen: func(o *Observed) { o.Ready, o.Fault = false, "Bucket acme: AccessDenied" },
			state: "provisioning", components: [4]v1alpha1.WarehouseState{"provisioning", "provisioning", "provisioning", "provisioning"},
			says: "Bucket acme: AccessDenied",
		},
		"not up just before 30 minutes": {
			minute: 29.9, seen: func(o *Observed) { o.Ready = false },
			state: "provisioning", components: [4]v1alpha1.WarehouseState{"provisioning", "provisioning", "provisioning", "provisioning"},
			says: "Duckling CR created",
		},
		"not up at 30 minutes": {
			minute: 30, seen: func(o *Observed) { o.Ready, o.Fault = false, "Bucket acme: AccessDenied" },
			state: "failed", components: [4]v1alpha1.WarehouseState{"provisioning", "provisioning", "provisioning", "provisioning"},
			says: "Provisioning timed out after 30 minutes: Bucket acme: AccessDenied",
		},
		"out of sync for less than 10 minutes": {
			minute: 9.9, seen: unsynced(0),
			state: "provisioning", components: [4]v1alpha1.WarehouseState{"provisioning", "provisioning", "provisioning", "provisioning"},
			says: "Crossplane error: no permission to make a bucket",
		},
		"out of sync for 10 minutes": {
			minute: 10, seen: unsynced(0),
			state: "failed", components: [4]v1alpha1.WarehouseState{"provisioning", "provisioning", "provisioning", "provisioning"},
			says: "Crossplane error: no permission to make a bucket",
		},
		"out of sync just now, late in the attempt": {
			minute: 25, seen: unsynced(24.5),
			state: "provisioning", components: [4]v1alpha1.WarehouseState{"provisioning", "provisioning", "provisioning", "provisioning"},
			says: "Crossplane error",
		},
		"out of sync since before the attempt, which has its own grace": {
			minute: 9, seen: unsynced(-60),
			state: "provisioning", components: [4]v1alpha1.WarehouseState{"provisioning", "provisioning", "provisioning", "provisioning"},
			says: "Crossplane error",
		},
		"a failed attempt that comes up goes on to the login": {
			minute: 45, status: func(s *v1alpha1.WarehouseStatus) { s.FailedAt = at(30) },
			state: "failed", components: [4]v1alpha1.WarehouseState{"ready", "ready", "ready", "ready"}, done: true,
		},
		"a ready warehouse whose part is gone stays ready": {
			minute: 500, seen: func(o *Observed) { o.Ready, o.Fault = false, "Cluster acme: rebooting" },
			status: func(s *v1alpha1.WarehouseStatus) { s.ReadyAt = at(5) },
			state:  "ready", components: [4]v1alpha1.WarehouseState{"provisioning", "provisioning", "provisioning", "provisioning"},
			says: "Cluster acme: rebooting",
		},
		"a ready warehouse out of sync for an hour stays ready": {
			minute: 500, seen: unsynced(440), status: func(s *v1alpha1.WarehouseStatus) { s.ReadyAt = at(5) },
			state: "ready", components: [4]v1alpha1.WarehouseState{"provisioning", "provisioning", "provisioning", "provisioning"},
			says: "Crossplane error",
		},
		"a Secret of somebody else": {
			minute: 1, seen: func(o *Observed) {
				o.Login, o.SecretReason, o.SecretFault = nil, "SecretNotTheirs", "The composite names Secret umbrella-db."
			},
			state: "provisioning", components: [4]v1alpha1.WarehouseState{"ready", "ready", "ready", "provisioning"},
			says: "The composite names Secret umbrella-db.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &v1alpha1.Warehouse{Spec: v1alpha1.WarehouseSpec{Attempt: 1}}
			w.Status.Attempt, w.Status.BegunAt, w.Status.ProvisioningStartedAt = 1, at(0), at(0)
			if tc.status != nil {
				tc.status(&w.Status)
			}
			s := &scope{Warehouse: w, seen: complete(), budget: Budget{}.orDefault(), now: at(tc.minute).Time}
			if tc.seen != nil {
				tc.seen(&s.seen)
			}
			walk(t, s)
			out := (&Worker{}).judge(t.Context(), s)
			if out.IsDone() != tc.done || !strings.Contains(out.Text(), tc.says) {
				t.Errorf("the judgement is %t %q, want %t with %q", out.IsDone(), out.Text(), tc.done, tc.says)
			}
			if got := w.State(); got != tc.state {
				t.Errorf("the state is %s, want %s", got, tc.state)
			}
			var components [4]v1alpha1.WarehouseState
			for i, c := range componentSteps() {
				components[i] = w.ComponentState(c)
			}
			if diff := cmp.Diff(tc.components, components); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func componentSteps() (conditions []string) {
	for _, c := range components {
		conditions = append(conditions, c.condition)
	}
	return conditions
}

// walk runs the component steps and keeps their conditions, as the kernel does.
func walk(t *testing.T, s *scope) {
	t.Helper()
	for _, c := range []struct {
		condition string
		done      bool
	}{
		{v1alpha1.MetadataStoreReady, metadataStore(t.Context(), s).IsDone()}, {v1alpha1.DataStoreReady, dataStore(t.Context(), s).IsDone()},
		{v1alpha1.IdentityReady, identity(t.Context(), s).IsDone()}, {v1alpha1.SecretsReady, secrets(t.Context(), s).IsDone()},
	} {
		status := metav1.ConditionFalse
		if c.done {
			status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: c.condition, Status: status, Reason: "Test"})
	}
}
