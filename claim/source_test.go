package claim_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit/world"
)

func sourceWorld(t *testing.T) (*world.World, *v1alpha1.DatabaseClaim) {
	t.Helper()
	w := world.New(t, world.Options{Class: func(s *v1alpha1.DatabaseClassSpec) { s.Allow.ExistingSource = true }})
	c := w.Claim("source", func(s *spec) {
		s.UseExistingSource = ptr.To(true)
		s.SourceDataFrom = &v1alpha1.SourceDataFrom{Type: "database", Database: &v1alpha1.SourceDatabase{SecretRef: &v1alpha1.SecretReference{Name: "theirs"}}}
	})
	return w, c
}

// theirs is the Secret of a source, with this URI.
func theirs(w *world.World, uri string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "theirs"}, StringData: map[string]string{"uri_dsn.txt": uri}}
}

func TestSourceSecretMayComeLater(t *testing.T) {
	t.Parallel()
	w, c := sourceWorld(t)
	database := w.Server.NewDatabaseName(t)
	w.Server.Exec(t, "", "CREATE DATABASE "+database)
	target := w.Server.Target()
	target.Database = database
	w.Make(c)
	w.Expect(c, v1alpha1.ServerReady, metav1.ConditionFalse, "SourceSecretMissing")
	w.Make(theirs(w, target.URI()))
	w.Ready(c)
	if got, err := w.As(w.Secret("source"), "SELECT current_database()"); err != nil || got != database {
		t.Errorf("the Secret leads to %q: %v", got, err)
	}
}

func TestMalformedSourceIsExplainedWithoutItsValue(t *testing.T) {
	t.Parallel()
	const password = "s3cr3t-and-bitter"
	for name, uri := range map[string]string{
		"no scheme":       "user:" + password + "@host/db",
		"a broken port":   "postgres://user:" + password + "@host:port/db",
		"a broken escape": "postgres://user:" + password + "%zz@host/db",
		"another scheme":  "mysql://user:" + password + "@host/db",
		"key and value":   "host=x password='" + password,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, c := sourceWorld(t)
			w.Make(theirs(w, uri))
			w.Make(c)
			w.Expect(c, v1alpha1.ServerReady, metav1.ConditionFalse, "SourceMalformed")
			for _, condition := range c.Status.Conditions {
				if strings.Contains(condition.Message, password) || strings.Contains(condition.Message, "bitter") {
					t.Errorf("%s shows the value: %s", condition.Type, condition.Message)
				}
			}
		})
	}
}

func TestAdministratorMayBeMendedLater(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ data, reason string }{
		"malformed":          {"not a uri at all", "SecretMalformed"},
		"with a wrong login": {"postgres://nobody:wrong@127.0.0.1:PORT/postgres?sslmode=disable", "LoginRefused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := world.New(t, world.Options{Idle: true})
			secret := &corev1.Secret{}
			if err := w.Get(t.Context(), client.ObjectKey{Namespace: w.Namespace, Name: "administrator"}, secret); err != nil {
				t.Fatal(err)
			}
			right := secret.Data["uri_dsn.txt"]
			w.Change(secret, func() {
				secret.Data["uri_dsn.txt"] = []byte(strings.ReplaceAll(tc.data, "PORT", fmt.Sprint(w.Server.Target().Port)))
			})
			stop := w.Run(t.Context())
			c := w.Claim("waiting")
			w.Make(c)
			w.Expect(c, v1alpha1.ServerReady, metav1.ConditionFalse, tc.reason)
			w.Expect(c, "Stalled", metav1.ConditionTrue, tc.reason)
			w.Change(secret, func() { secret.Data["uri_dsn.txt"] = right })
			// The second look comes by itself after a minute; a new process needs none.
			stop()
			w.Run(t.Context())
			w.Ready(c)
			w.Ready(w.Class)
		})
	}
}

func TestTwoClaimsCannotHaveOneSecret(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	share := func(s *spec) { s.SecretName = "shared" }
	first, second := w.Claim("first", share), w.Claim("second", share)
	w.Make(first)
	w.Ready(first)
	before := w.Secret("shared")
	w.Make(second)
	w.Expect(second, v1alpha1.SecretPublished, metav1.ConditionFalse, "SecretNotOurs")
	if got := w.Secret("shared"); got["username"] != before["username"] || got["password"] != before["password"] {
		t.Errorf("the Secret tells %s now", got["username"])
	}
	w.Gone(second)
	if got := w.Secret("shared"); got["username"] != before["username"] {
		t.Error("the other claim's deletion changed the Secret")
	}
	w.Ready(first)
}
