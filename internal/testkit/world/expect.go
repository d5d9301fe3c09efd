package world

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
)

// patience is how long a condition may take on a busy machine.
const patience = 60 * time.Second

// Object is a kind that has conditions.
type Object interface {
	client.Object
	Conditions() *[]metav1.Condition
}

// Claim is a claim of the world's class, not yet made. Its database and role
// are called after the namespace, so that worlds can share a server.
func (w *World) Claim(name string, change ...func(*v1alpha1.DatabaseClaimSpec)) *v1alpha1.DatabaseClaim {
	c := &v1alpha1.DatabaseClaim{Spec: v1alpha1.DatabaseClaimSpec{Class: w.Class.Name}}
	c.Namespace, c.Name = w.Namespace, name
	for _, f := range change {
		f(&c.Spec)
	}
	return c
}

// Make creates an object.
func (w *World) Make(o client.Object) {
	w.t.Helper()
	if err := w.Create(w.t.Context(), o); err != nil {
		w.t.Fatalf("making %T %s: %v", o, o.GetName(), err)
	}
}

// Change applies a merge patch until it is accepted.
func (w *World) Change(o client.Object, change func()) {
	w.t.Helper()
	before := o.DeepCopyObject().(client.Object)
	change()
	if err := w.Patch(w.t.Context(), o, client.MergeFrom(before)); err != nil {
		w.t.Fatalf("changing %s: %v", o.GetName(), err)
	}
}

// Until waits for holds, and fails with what it last said.
func (w *World) Until(what string, holds func() (bool, string)) {
	w.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		ok, last := holds()
		if ok {
			return
		}
		select {
		case <-deadline:
			w.t.Fatalf("waiting for %s: %s", what, last)
		case <-w.t.Context().Done():
			w.t.Fatalf("waiting for %s: %s", what, last)
		case <-tick.C:
		}
	}
}

// Expect waits until the condition of o has the status and reason for o's
// present generation, and refreshes o. It returns the condition.
func (w *World) Expect(o Object, condition string, status metav1.ConditionStatus, reason string) metav1.Condition {
	w.t.Helper()
	var found metav1.Condition
	w.Until(fmt.Sprintf("%s %s=%s/%s", o.GetName(), condition, status, reason), func() (bool, string) {
		if err := w.Get(w.t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return false, err.Error()
		}
		c := meta.FindStatusCondition(*o.Conditions(), condition)
		if c == nil {
			return false, "the condition is not there yet"
		}
		found = *c
		return c.Status == status && (reason == "" || c.Reason == reason) && c.ObservedGeneration == o.GetGeneration(), describe(o)
	})
	return found
}

func describe(o Object) string {
	var lines []string
	for _, c := range *o.Conditions() {
		lines = append(lines, fmt.Sprintf("%s=%s/%s %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return strings.Join(lines, "\n")
}

// Ready waits until o is Ready, and refreshes it.
func (w *World) Ready(o Object) {
	w.t.Helper()
	w.Expect(o, v1alpha1.Ready, metav1.ConditionTrue, "")
}

// Gone deletes o and waits until the API server knows it no more.
func (w *World) Gone(o client.Object) {
	w.t.Helper()
	if err := client.IgnoreNotFound(w.Delete(w.t.Context(), o)); err != nil {
		w.t.Fatalf("deleting %s: %v", o.GetName(), err)
	}
	w.Until(o.GetName()+" to be gone", func() (bool, string) {
		err := w.Get(w.t.Context(), client.ObjectKeyFromObject(o), o)
		if object, ok := o.(Object); ok {
			return apierrors.IsNotFound(err), describe(object)
		}
		return apierrors.IsNotFound(err), "it is still there"
	})
}

// Secret reads the data of a Secret as text.
func (w *World) Secret(name string) map[string]string {
	w.t.Helper()
	secret := &corev1.Secret{}
	if err := w.Get(w.t.Context(), client.ObjectKey{Namespace: w.Namespace, Name: name}, secret); err != nil {
		w.t.Fatalf("reading Secret %s: %v", name, err)
	}
	data := map[string]string{}
	for key, value := range secret.Data {
		data[key] = string(value)
	}
	return data
}

// Login connects as a tenant does, by a Secret's URI.
func (w *World) Login(secret map[string]string) (*pgx.Conn, error) {
	target, err := postgres.ParseDSN(secret["uri_dsn.txt"])
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	return testkit.Connect(ctx, target)
}

// As runs SQL with the login of a Secret, and returns the first column of the
// last row as text.
func (w *World) As(secret map[string]string, sql string) (string, error) {
	conn, err := w.Login(secret)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(w.t.Context()))
	results, err := conn.PgConn().Exec(w.t.Context(), sql).ReadAll()
	if err != nil {
		return "", err
	}
	last := results[len(results)-1]
	if len(last.Rows) == 0 {
		return "", nil
	}
	return string(last.Rows[len(last.Rows)-1][0]), nil
}
