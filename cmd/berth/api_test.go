package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
)

// scene is a command at work on a namespace of its own, where the test plays
// the controller.
type scene struct {
	*desk
	t        *testing.T
	out, err bytes.Buffer
}

func newScene(t *testing.T) *scene { return sceneAs(t, testkit.APIServer(t), testkit.Namespace(t)) }

func sceneAs(t *testing.T, access *rest.Config, namespace string) *scene {
	t.Helper()
	kinds, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	api, err := client.NewWithWatch(access, client.Options{Scheme: kinds})
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{t: t}
	s.desk = &desk{terminal: &terminal{in: strings.NewReader(""), out: &s.out, err: &s.err, width: 100}, api: api, namespace: namespace, format: asTable, now: time.Now}
	return s
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) shows(texts ...string) {
	s.t.Helper()
	for _, text := range texts {
		if !strings.Contains(s.out.String(), text) {
			s.t.Errorf("%q is not in:\n%s", text, s.out.String())
		}
	}
}

func (s *scene) refused(err error, text string) {
	s.t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		s.t.Fatalf("error is %v, want one with %q", err, text)
	}
}

// claim makes a claim that is Ready with version 1 of its credential.
func (s *scene) claim(name string) *v1alpha1.DatabaseClaim {
	s.t.Helper()
	c := &v1alpha1.DatabaseClaim{}
	c.Namespace, c.Name = s.namespace, name
	s.must(s.api.Create(s.t.Context(), c))
	c.Status.Owner, c.Status.Database = name, name
	c.Status.Credential = &v1alpha1.CredentialStatus{Login: name + "_a", Version: 1, PublishedAt: metav1.Now(), RotatesAt: metav1.NewTime(time.Now().Add(time.Hour))}
	s.status(c, metav1.Condition{Type: v1alpha1.Ready, Status: metav1.ConditionTrue, Reason: v1alpha1.Ready})
	return c
}

// status writes the status of c as a controller that looked at its newest spec.
func (s *scene) status(c *v1alpha1.DatabaseClaim, conditions ...metav1.Condition) {
	s.t.Helper()
	for i := range conditions {
		conditions[i].LastTransitionTime = metav1.Now()
	}
	c.Status.Conditions, c.Status.ObservedGeneration = conditions, c.Generation
	s.must(s.api.Status().Update(s.t.Context(), c))
}

func (s *scene) secret(c *v1alpha1.DatabaseClaim, owner string) {
	s.t.Helper()
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name, secret.Labels = c.Namespace, c.Name, naming.Labels(naming.ClaimKind, owner)
	secret.Data = map[string][]byte{"password": []byte("hunter2"), "username": []byte(c.Name + "_a")}
	s.must(s.api.Create(s.t.Context(), secret))
}

// once runs then as soon as the claim is asked for what wish sees.
func (s *scene) once(c *v1alpha1.DatabaseClaim, wish func(v1alpha1.RotationSpec) bool, then func(*v1alpha1.DatabaseClaim)) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.After(20 * time.Second); ; {
			have := &v1alpha1.DatabaseClaim{}
			if s.api.Get(s.t.Context(), client.ObjectKeyFromObject(c), have) == nil && wish(have.Spec.Rotation) {
				then(have)
				return
			}
			select {
			case <-tick.C:
			case <-deadline:
				s.t.Error("the claim was not asked for a rotation in 20 s")
				return
			}
		}
	}()
	return done
}

func TestRotateAsksForTheNextVersionAndSaysWhichLoginIsCurrent(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := s.claim("orders")
	done := s.once(c, func(r v1alpha1.RotationSpec) bool { return r.MinVersion == 2 }, func(c *v1alpha1.DatabaseClaim) {
		c.Status.Credential = &v1alpha1.CredentialStatus{Login: "orders_b", Version: 2, Previous: "orders_a", PublishedAt: metav1.Now(), RotatesAt: metav1.Now()}
		s.status(c, c.Status.Conditions...)
	})
	s.must((&RotateCmd{Name: "orders", Wait: true, Timeout: 30 * time.Second}).run(t.Context(), s.desk))
	<-done
	s.shows("login orders_b is current, version 2.", "Login orders_a stays open", "while it has sessions")
}

func TestRotateEndsWhenWaitingDoesNotHelp(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := s.claim("orders")
	done := s.once(c, func(r v1alpha1.RotationSpec) bool { return r.MinVersion == 2 }, func(c *v1alpha1.DatabaseClaim) {
		s.status(c, metav1.Condition{Type: v1alpha1.Admitted, Status: metav1.ConditionFalse, Reason: "ClassMissing", Message: "There is no class gold."},
			metav1.Condition{Type: "Stalled", Status: metav1.ConditionTrue, Reason: "ClassMissing"})
	})
	err := (&RotateCmd{Name: "orders", Wait: true, Timeout: 30 * time.Second}).run(t.Context(), s.desk)
	<-done
	s.refused(err, "Admitted ClassMissing: There is no class gold); waiting does not help")
}

func TestRotateSaysWhatItStillWaitsForAtItsTimeout(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := s.claim("orders")
	c.Status.Credential.Previous = "orders_b"
	s.status(c, c.Status.Conditions...)
	err := (&RotateCmd{Name: "orders", Wait: true, Timeout: 3 * time.Second}).run(t.Context(), s.desk)
	s.refused(err, "version 2 waits until login orders_b is closed")
}

func TestRotateRefusesWhatHasNoCredential(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := s.claim("orders")
	c.Status.Credential = nil
	s.status(c)
	reader := &v1alpha1.RoleClaim{}
	reader.Namespace, reader.Name, reader.Spec.SourceDatabaseClaim.Name = s.namespace, "reader", "orders"
	s.must(s.api.Create(t.Context(), reader))
	s.refused((&RotateCmd{Name: "orders"}).run(t.Context(), s.desk), "has no credential yet")
	s.refused((&RotateCmd{Name: "reader", Role: true}).run(t.Context(), s.desk), "copies the Secret of DatabaseClaim "+s.namespace+"/orders")
	s.refused((&RotateCmd{Name: "absent"}).run(t.Context(), s.desk), "there is no DatabaseClaim absent in namespace "+s.namespace)
}

func TestRevokeTellsWhatItBroke(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := s.claim("orders")
	s.event(c, "Revoked", "of an hour ago", time.Now().Add(-time.Hour))
	done := s.once(c, func(r v1alpha1.RotationSpec) bool { return r.RevokedThrough == 1 }, func(c *v1alpha1.DatabaseClaim) {
		c.Status.Credential = &v1alpha1.CredentialStatus{Login: "orders_b", Version: 2, PublishedAt: metav1.Now(), RotatesAt: metav1.Now()}
		s.status(c, c.Status.Conditions...)
		s.event(c, "SessionsEnded", "Ended 3 sessions of orders_b.", time.Now())
		s.event(c, "Revoked", "Login orders_a is closed.", time.Now())
	})
	s.must((&RevokeCmd{Name: "orders", Yes: true, Timeout: 30 * time.Second}).run(t.Context(), s.desk))
	<-done
	want := "DatabaseClaim " + s.namespace + "/orders: login orders_b is current, version 2.\nEnded 3 sessions of orders_b.\nLogin orders_a is closed.\n"
	if diff := cmp.Diff(want, s.out.String()); diff != "" {
		t.Fatal(diff)
	}
}

func TestRevokeDoesNothingUnlessItIsConfirmed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		asks   bool
		answer string
		err    string
	}{
		"without a terminal":     {err: "add --yes"},
		"with another answer":    {asks: true, answer: "yes\n", err: "nothing was revoked"},
		"with an ended terminal": {asks: true, err: "nothing was revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			c := s.claim("orders")
			s.asks, s.in = tc.asks, strings.NewReader(tc.answer)
			s.refused((&RevokeCmd{Name: "orders", Timeout: time.Second}).run(t.Context(), s.desk), tc.err)
			s.must(s.api.Get(t.Context(), client.ObjectKeyFromObject(c), c))
			if c.Spec.Rotation.RevokedThrough != 0 {
				t.Fatal("the claim was changed")
			}
		})
	}
}

func (s *scene) event(c *v1alpha1.DatabaseClaim, reason, note string, at time.Time) {
	s.t.Helper()
	e := &eventsv1.Event{Reason: reason, Note: note, Type: corev1.EventTypeNormal, Action: "Reconcile", ReportingController: "berth", ReportingInstance: "test"}
	e.Namespace, e.GenerateName, e.EventTime = c.Namespace, c.Name+"-", metav1.NewMicroTime(at)
	e.Regarding = corev1.ObjectReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "DatabaseClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID}
	if err := s.api.Create(s.t.Context(), e); err != nil {
		s.t.Error(err) // not Fatal: the test's controller is another goroutine
	}
}

func TestEventsAreOldestFirstAndOfTheNamedClaim(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c, other := s.claim("orders"), s.claim("billing")
	s.event(c, "Rotated", "second", time.Now().Add(-2*time.Minute))
	s.event(c, "Ready", "first", time.Now().Add(-time.Hour))
	s.event(other, "Ready", "of another", time.Now())
	s.must((&EventsCmd{Name: "orders"}).run(t.Context(), s.desk))
	want := "60m    DatabaseClaim orders             Ready  first\n2m     DatabaseClaim orders             Rotated  second\n"
	if diff := cmp.Diff(want, s.out.String()); diff != "" {
		t.Fatal(diff)
	}
}

func TestGetShowsKeysOfASecretButNoValue(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.secret(s.claim("orders"), "orders")
	for _, format := range []string{"table", "json", "yaml"} {
		for _, name := range []string{"orders", ""} {
			s.format = format
			s.must((&GetCmd{Name: name}).run(t.Context(), s.desk))
		}
	}
	s.shows("orders  2 keys", "login orders_a  current, version 1", `"kind": "List"`, "kind: List")
	if strings.Contains(s.out.String(), "hunter2") || strings.Contains(s.out.String(), "managedFields") {
		t.Fatalf("a password or noise is shown:\n%s", s.out.String())
	}
}

func TestGetShowsWhatAPersonMayRead(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.secret(s.claim("orders"), "orders")
	reader := &rbacv1.Role{Rules: []rbacv1.PolicyRule{{APIGroups: []string{"berth.dev"}, Resources: []string{"databaseclaims", "roleclaims"}, Verbs: []string{"get", "list"}}}}
	reader.Namespace, reader.Name = s.namespace, "reader"
	s.must(s.api.Create(t.Context(), reader))
	binding := &rbacv1.RoleBinding{
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: s.namespace}},
	}
	binding.Namespace, binding.Name = s.namespace, "reader"
	s.must(s.api.Create(t.Context(), binding))
	limited := sceneAs(t, testkit.User(t, s.namespace), s.namespace)
	for _, name := range []string{"orders", ""} {
		limited.out.Reset()
		limited.must((&GetCmd{Name: name}).run(t.Context(), limited.desk))
		limited.shows("login orders_a  current", "Secret   orders  (you may not read it)")
	}
}

func TestGetWatchEndsWhenTheClaimIsReady(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := s.claim("orders")
	s.status(c, metav1.Condition{Type: v1alpha1.ServerReady, Status: metav1.ConditionFalse, Reason: "Starting", Message: "It starts."})
	s.refused((&GetCmd{Name: "orders", Watch: true, Timeout: 3 * time.Second}).run(t.Context(), s.desk), "orders: ServerReady Starting: It starts")
	done := s.once(c, func(v1alpha1.RotationSpec) bool { return true }, func(c *v1alpha1.DatabaseClaim) {
		s.status(c, metav1.Condition{Type: v1alpha1.Ready, Status: metav1.ConditionTrue, Reason: v1alpha1.Ready})
	})
	s.must((&GetCmd{Name: "orders", Watch: true, Timeout: 30 * time.Second}).run(t.Context(), s.desk))
	<-done
	s.shows("orders  Ready")
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := (&GetCmd{Name: "orders", Watch: true}).run(stopped, s.desk); !errors.Is(err, errInterrupted) {
		t.Fatalf("an interrupted watch ends with %v", err)
	}
}

func TestPsqlUsesOnlyTheSecretOfTheClaim(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := s.claim("orders")
	_, err := (&PsqlCmd{Name: "orders"}).secret(t.Context(), s.desk)
	s.refused(err, "has not published Secret orders yet")
	s.secret(c, "somebody-else")
	_, err = (&PsqlCmd{Name: "orders"}).secret(t.Context(), s.desk)
	s.refused(err, "has not published Secret orders yet")
	s.secret(s.claim("billing"), "billing")
	secret, err := (&PsqlCmd{Name: "billing"}).secret(t.Context(), s.desk)
	s.must(err)
	if string(secret.Data["username"]) != "billing_a" {
		t.Fatalf("username is %s", secret.Data["username"])
	}
}

// preview answers with what it was asked, so that tests see what berth plans for.
type preview func(client.Object) backend.Preview

func (p preview) Preview(_ context.Context, o client.Object) (backend.Preview, error) {
	return p(o), nil
}

func (s *scene) plan(text string, p preview) error {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "manifest.yaml")
	s.must(os.WriteFile(file, []byte(text), 0o600))
	return (&PlanCmd{File: file}).run(s.t.Context(), s.desk, p)
}

func TestPlanTellsAllThatTheAPIServerRefuses(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	err := s.plan(orders+"spec: {databaseName: postgres, userName: pg_x, useExistingSource: true, sourceDataFrom: {type: database, database: {dsn: 'postgres://u:hunter2@h/d', secretRef: {name: x}}}}", nil)
	s.refused(err, "1 of 1 objects would be refused")
	var code exitError
	if !errors.As(err, &code) || code.ExitCode() != 2 {
		t.Fatalf("exit code of %v", err)
	}
	s.shows("spec.databaseName: postgres, template0", "spec.userName: names starting with pg_", "spec.sourceDataFrom.database.dsn: must not hold a password")
	if strings.Contains(s.out.String(), "hunter2") {
		t.Fatalf("the refused password is shown:\n%s", s.out.String())
	}
}

func TestPlanAsksAboutTheObjectAsItWouldBeAndChangesNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := s.claim("orders")
	s.must(s.plan(orders+"spec: {schemas: [sales]}\n---\n"+strings.ReplaceAll(orders, "orders", "fresh")+"spec: {}", func(o client.Object) backend.Preview {
		planned := o.(*v1alpha1.DatabaseClaim)
		if planned.Name == "fresh" {
			return backend.Preview{}
		}
		if planned.Spec.Class != "default" || planned.Status.Credential == nil || planned.UID != c.UID {
			t.Errorf("asked about %+v, which lacks the default class, the status or the UID", planned)
		}
		return backend.Preview{Statements: []postgres.Statement{{Database: "orders", SQL: "CREATE SCHEMA " + planned.Spec.Schemas[0]}}}
	}))
	want := "DatabaseClaim " + s.namespace + "/orders\n  SQL in database orders\n    CREATE SCHEMA sales;\n\nDatabaseClaim " + s.namespace + "/fresh: nothing to do\n"
	if diff := cmp.Diff(want, s.out.String()); diff != "" {
		t.Fatal(diff)
	}
	resource := c.ResourceVersion
	s.must(s.api.Get(t.Context(), client.ObjectKeyFromObject(c), c))
	if c.ResourceVersion != resource {
		t.Fatal("the claim was changed")
	}
	if err := s.api.Get(t.Context(), client.ObjectKey{Namespace: s.namespace, Name: "fresh"}, c); !apierrors.IsNotFound(err) {
		t.Fatalf("reading the claim that was only planned: %v", err)
	}
}
