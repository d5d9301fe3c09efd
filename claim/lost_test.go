package claim_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
	"github.com/berth-dev/berth/postgres"
)

// noted waits for an event about o with this reason, and returns what it says.
func noted(t *testing.T, w *world.World, o client.Object, reason string) string {
	t.Helper()
	var said string
	w.Until("event "+reason, func() (bool, string) {
		list := &eventsv1.EventList{}
		if err := w.List(t.Context(), list, client.InNamespace(w.Namespace)); err != nil {
			return false, err.Error()
		}
		var seen []string
		for _, e := range list.Items {
			if seen = append(seen, e.Reason); e.Reason == reason && e.Regarding.Name == o.GetName() {
				said = e.Note
				return true, ""
			}
		}
		return false, strings.Join(seen, " ")
	})
	return said
}

func TestClassThatIsTornAway(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	kept, lost := w.Claim("kept"), w.Claim("lost")
	for _, c := range []*v1alpha1.DatabaseClaim{kept, lost} {
		w.Make(c)
		w.Ready(c)
	}
	class := w.Class.DeepCopy()
	if err := w.Delete(t.Context(), w.Class); err != nil {
		t.Fatal(err)
	}
	w.Expect(w.Class, v1alpha1.Unused, metav1.ConditionFalse, "InUse")
	w.Change(w.Class, func() { w.Class.Finalizers = nil })
	for _, c := range []*v1alpha1.DatabaseClaim{kept, lost} {
		w.Expect(c, v1alpha1.Ready, metav1.ConditionFalse, "ClassNotFound")
		if _, err := w.As(w.Secret(c.Name), "SELECT 1"); err != nil {
			t.Errorf("%s cannot log in without its class: %v", c.Name, err)
		}
	}
	w.Gone(lost)
	if said := noted(t, w, lost, "LeftBehind"); !strings.Contains(said, lost.Status.Database) {
		t.Errorf("the event does not name the database: %s", said)
	}
	class.ResourceVersion, class.UID = "", ""
	w.Make(class)
	w.Ready(kept)
	if kept.Status.Credential.Version != 1 {
		t.Errorf("the way back cost version %d", kept.Status.Credential.Version)
	}
	w.Until("the sweeper to take the logins of the claim that went without its class", func() (bool, string) {
		w.Sweeper.Sweep(t.Context())
		open := w.Server.Query(t, "", "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname LIKE '"+lost.Status.Owner+"%'")
		return len(open) == 0, strings.Join(open, " ")
	})
	if _, err := w.As(w.Secret("kept"), "SELECT 1"); err != nil {
		t.Errorf("after the sweep: %v", err)
	}
}

func TestClockThatJumps(t *testing.T) {
	t.Parallel()
	now := time.Now()
	clock := clocktesting.NewFakePassiveClock(now)
	w := world.New(t, world.Options{Clock: clock})
	c := w.Claim("jumpy")
	w.Make(c)
	w.Ready(c)
	w.Change(c, func() { c.Spec.Rotation.MinVersion = 2 })
	w.Expect(c, v1alpha1.NoStaleLogin, metav1.ConditionFalse, "Propagating")
	for i, jump := range []time.Duration{-365 * 24 * time.Hour, 365 * 24 * time.Hour} {
		clock.SetTime(now.Add(jump))
		w.Change(c, func() { c.Spec.AppID = fmt.Sprint(i) })
		w.Ready(c)
		if _, err := w.As(w.Secret("jumpy"), "SELECT 1"); err != nil {
			t.Errorf("after a jump of %s: %v", jump, err)
		}
		if jump < 0 && (c.Status.Credential.Previous == "" || c.Status.Credential.Version != 2) {
			t.Errorf("a jump of %s retired or rotated: %+v", jump, *c.Status.Credential)
		}
		if !c.Status.Credential.RotatesAt.Before(&metav1.Time{Time: clock.Now().Add(61 * time.Minute)}) {
			t.Errorf("after a jump of %s the next rotation is %s away", jump, c.Status.Credential.RotatesAt.Sub(clock.Now()))
		}
	}
}

func TestServerThatNeverComesBack(t *testing.T) {
	t.Parallel()
	server := testkit.NewPostgres(t, 15)
	clock := clocktesting.NewFakePassiveClock(time.Now())
	w := world.New(t, world.Options{Server: server, Clock: clock})
	c := w.Claim("stranded")
	w.Make(c)
	w.Ready(c)
	server.Stop(t)
	if err := w.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	w.Expect(c, v1alpha1.Released, metav1.ConditionFalse, "Unreachable")
	clock.SetTime(time.Now().Add(3 * time.Minute))
	w.Gone(c)
	if said := noted(t, w, c, "LeftBehind"); !strings.Contains(said, c.Status.Database) {
		t.Errorf("the event does not name the database: %s", said)
	}
	server.Start(t)
	logins := func() []string {
		return server.Query(t, "", "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname LIKE '"+c.Status.Owner+"%'")
	}
	w.Until("the sweeper to take the logins", func() (bool, string) {
		w.Sweeper.Sweep(t.Context())
		return len(logins()) == 0, strings.Join(logins(), " ")
	})
	m, ok := postgres.ParseMarker(server.Query(t, "", "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '"+c.Status.Database+"'")[0])
	if !ok || m.DropAfter == nil {
		t.Errorf("the database is marked %+v, want the end of its window", m)
	}
	clock.SetTime(time.Now().Add(48 * time.Hour))
	w.Sweeper.Sweep(t.Context())
	if got := server.Query(t, "", "SELECT datname FROM pg_database WHERE datname = '"+c.Status.Database+"' UNION SELECT rolname FROM pg_roles WHERE rolname LIKE '"+c.Status.Owner+"%'"); len(got) != 0 {
		t.Errorf("after its window stay %v", got)
	}
}

func TestProtectedClaim(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{Class: func(s *v1alpha1.DatabaseClassSpec) { s.Deletion.UndoWindow = &metav1.Duration{} }})
	c := w.Claim("safe", func(s *spec) { s.DeletionProtection = true })
	w.Make(c)
	w.Ready(c)
	err := w.Delete(t.Context(), c)
	if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) || !strings.Contains(fmt.Sprint(err), "spec.deletionProtection") {
		t.Fatalf("deletion answers: %v", err)
	}
	w.Ready(c)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.Namespace}}
	if err := w.Delete(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	w.Until("the end of the namespace to let the claim go", func() (bool, string) {
		err := w.Delete(t.Context(), c)
		return err == nil || apierrors.IsNotFound(err), fmt.Sprint(err)
	})
	w.Gone(c)
	w.Sweeper.Sweep(t.Context())
	marker := w.Server.Query(t, "", "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '"+c.Status.Database+"'")
	if len(marker) == 0 {
		t.Fatal("the database is gone")
	}
	if m, ok := postgres.ParseMarker(marker[0]); !ok || m.Released == nil || m.DropAfter != nil {
		t.Errorf("the database is marked %s, want it kept for ever", marker[0])
	}
}
