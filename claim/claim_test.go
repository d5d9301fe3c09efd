package claim_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
)

func TestMain(m *testing.M) { testkit.Main(m) }

type spec = v1alpha1.DatabaseClaimSpec

func TestClaimBecomesAWorkingDatabase(t *testing.T) {
	t.Parallel()
	for name, admin := range map[string]bool{"superuser": true, "administrator without superuser": false} {
		for _, major := range testkit.Majors {
			t.Run(fmt.Sprintf("%s on %d", name, major), func(t *testing.T) {
				t.Parallel()
				o := world.Options{Server: testkit.Postgres(t, major)}
				if !admin {
					o.Admin = ptr.To(o.Server.Admin(t))
				}
				w := world.New(t, o)
				c := w.Claim("orders", func(s *spec) { s.Schemas = []string{"app"}; s.Extensions = []string{"citext"} })
				w.Make(c)
				w.Ready(c)
				secret := w.Secret("orders")
				if _, err := w.As(secret, "CREATE TABLE app.t (x citext); INSERT INTO app.t VALUES ('a')"); err != nil {
					t.Fatal(err)
				}
				who, err := w.As(secret, "SELECT session_user || ' as ' || current_user || ' in ' || current_database()")
				if err != nil {
					t.Fatal(err)
				}
				owner := w.Namespace + "_orders"
				if want := owner + "_a as " + owner + " in " + owner; who != want {
					t.Errorf("logged in as %q, want %q", who, want)
				}
			})
		}
	}
}

func TestSecretHasExactlyItsKeys(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	c := w.Claim("keys", func(s *spec) {
		s.SecretName = "app-database"
		s.SecretTemplate = map[string]v1alpha1.Template{"jdbc": "jdbc:postgresql://{{ .Host }}:{{ .Port }}/{{ .Database }}"}
	})
	w.Make(c)
	w.Ready(c)
	secret := w.Secret("app-database")
	var keys []string
	for key := range secret {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	if got := strings.Join(keys, " "); got != "database dsn.txt hostname jdbc password port sslmode uri_dsn.txt username" {
		t.Errorf("keys: %s", got)
	}
	if secret["jdbc"] != "jdbc:postgresql://"+secret["hostname"]+":"+secret["port"]+"/"+secret["database"] {
		t.Errorf("the template gave %q", secret["jdbc"])
	}
	if len(secret["password"]) != 32 {
		t.Errorf("the password has %d characters", len(secret["password"]))
	}
}

func TestSecretIsRepaired(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	c := w.Claim("mend")
	w.Make(c)
	w.Ready(c)
	before := w.Secret("mend")
	for name, damage := range map[string]func(*corev1.Secret) error{
		"a changed password": func(s *corev1.Secret) error {
			s.Data["password"] = []byte("wrong")
			return w.Update(t.Context(), s)
		},
		"a missing key": func(s *corev1.Secret) error {
			delete(s.Data, "uri_dsn.txt")
			return w.Update(t.Context(), s)
		},
		"deletion by hand": func(s *corev1.Secret) error { return w.Delete(t.Context(), s) },
	} {
		secret := &corev1.Secret{}
		key := client.ObjectKey{Namespace: w.Namespace, Name: "mend"}
		if err := w.Get(t.Context(), key, secret); err != nil {
			t.Fatal(err)
		}
		if err := damage(secret); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		w.Until("repair after "+name, func() (bool, string) {
			if err := w.Get(t.Context(), key, secret); err != nil {
				return false, err.Error()
			}
			return string(secret.Data["password"]) == before["password"] && string(secret.Data["uri_dsn.txt"]) == before["uri_dsn.txt"], "not as before yet"
		})
	}
	w.Ready(c)
	if c.Status.Credential.Version != 1 {
		t.Errorf("repair rotated to version %d", c.Status.Credential.Version)
	}
}

func TestSecretOfSomebodyElseIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	w.Make(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "taken"}, StringData: map[string]string{"theirs": "yes"}})
	c := w.Claim("taken")
	w.Make(c)
	w.Expect(c, v1alpha1.SecretPublished, metav1.ConditionFalse, "SecretNotOurs")
	w.Expect(c, "Stalled", metav1.ConditionTrue, "SecretNotOurs")
	if got := w.Secret("taken"); len(got) != 1 || got["theirs"] != "yes" {
		t.Errorf("the Secret was changed: %d keys", len(got))
	}
}

func TestDatabaseOfSomebodyElseIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	name := w.Server.NewDatabaseName(t)
	w.Server.Exec(t, "", "CREATE DATABASE "+name)
	c := w.Claim("theirs", func(s *spec) { s.DatabaseName = name })
	w.Make(c)
	w.Expect(c, v1alpha1.DatabaseReady, metav1.ConditionFalse, "DatabaseNotOurs")
	if got := w.Server.Query(t, "", "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '"+name+"'"); got[0] != "postgres" {
		t.Errorf("owner is now %s", got[0])
	}
}

func TestTwoClaimsCannotHaveOneDatabase(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	name := w.Server.NewDatabaseName(t)
	first := w.Claim("first", func(s *spec) { s.DatabaseName = name })
	w.Make(first)
	w.Ready(first)
	second := w.Claim("second", func(s *spec) { s.DatabaseName = name })
	w.Make(second)
	c := w.Expect(second, v1alpha1.DatabaseReady, metav1.ConditionFalse, "DatabaseNotOurs")
	if !strings.Contains(c.Message, w.Namespace+"/first") {
		t.Errorf("the message does not name the other claim: %s", c.Message)
	}
	w.Ready(first)
}

func TestAdoptionRepairsOwnership(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{Class: func(s *v1alpha1.DatabaseClassSpec) { s.Allow.Adoption = true }})
	name := w.Server.NewDatabaseName(t)
	w.Server.Exec(t, "", "CREATE ROLE "+name+"_old LOGIN")
	w.Server.Exec(t, "", "CREATE DATABASE "+name+" OWNER "+name+"_old")
	w.Server.Exec(t, name, "SET ROLE "+name+"_old; CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)")
	c := w.Claim("adopted", func(s *spec) { s.DatabaseName = name; s.AdoptExisting = true })
	w.Make(c)
	w.Ready(c)
	got, err := w.As(w.Secret("adopted"), "ALTER TABLE kept ADD y int; SELECT x FROM kept")
	if err != nil || got != "7" {
		t.Fatalf("the new owner reads %q: %v", got, err)
	}
}

func TestExistingSourceGetsLoginsOnly(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{Class: func(s *v1alpha1.DatabaseClassSpec) { s.Allow.ExistingSource = true }})
	name := w.Server.NewDatabaseName(t)
	w.Server.Exec(t, "", "CREATE DATABASE "+name)
	w.Server.Exec(t, name, "CREATE TABLE t (x int); INSERT INTO t VALUES (5)")
	admin := w.Server.Target()
	w.Make(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "source"}, StringData: map[string]string{"password": admin.Password}})
	c := w.Claim("existing", func(s *spec) {
		s.UseExistingSource = ptr.To(true)
		s.SourceDataFrom = &v1alpha1.SourceDataFrom{Type: "database", Database: &v1alpha1.SourceDatabase{
			DSN:       fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", admin.User, net.JoinHostPort(admin.Host, fmt.Sprint(admin.Port)), name),
			SecretRef: &v1alpha1.SecretReference{Name: "source"},
		}}
	})
	w.Make(c)
	w.Ready(c)
	if got, err := w.As(w.Secret("existing"), "INSERT INTO t VALUES (6); SELECT sum(x) FROM t"); err != nil || got != "11" {
		t.Fatalf("read %q: %v", got, err)
	}
	w.Gone(c)
	if got := w.Server.Query(t, name, "SELECT sum(x) FROM t"); got[0] != "11" {
		t.Errorf("the source lost rows: %v", got)
	}
	if got := w.Server.Query(t, "", "SELECT rolname FROM pg_roles WHERE rolname LIKE '"+c.Status.Owner+"%'"); len(got) != 0 {
		t.Errorf("roles stay: %v", got)
	}
}

func TestDeletedClaimComesBackWithinItsWindow(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	c := w.Claim("undo")
	w.Make(c)
	w.Ready(c)
	before := w.Secret("undo")
	if _, err := w.As(before, "CREATE TABLE kept (x int); INSERT INTO kept VALUES (3)"); err != nil {
		t.Fatal(err)
	}
	database := c.Status.Database
	w.Gone(c)
	if _, err := w.Login(before); err == nil {
		t.Error("a login of the deleted claim still works")
	}
	if got := w.Server.Query(t, "", "SELECT count(*) FROM pg_roles WHERE rolcanlogin AND rolname LIKE '"+database+"%'"); got[0] != "0" {
		t.Errorf("%s logins stay", got[0])
	}
	w.Sweeper.Sweep(t.Context())
	again := w.Claim("undo")
	w.Make(again)
	w.Ready(again)
	if got, err := w.As(w.Secret("undo"), "SELECT x FROM kept"); err != nil || got != "3" {
		t.Fatalf("came back with %q: %v", got, err)
	}
}

func TestSweeperDropsAfterTheWindow(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{Class: func(s *v1alpha1.DatabaseClassSpec) {
		s.Deletion.UndoWindow = &metav1.Duration{Duration: time.Second}
	}})
	c := w.Claim("swept")
	w.Make(c)
	w.Ready(c)
	database := c.Status.Database
	w.Gone(c)
	w.Until("the sweeper to drop the database", func() (bool, string) {
		w.Sweeper.Sweep(t.Context())
		got := w.Server.Query(t, "", "SELECT datname FROM pg_database WHERE datname = '"+database+"' UNION SELECT rolname FROM pg_roles WHERE rolname LIKE '"+database+"%'")
		return len(got) == 0, strings.Join(got, " ")
	})
}

func TestRetainedDatabaseOutlivesTheSweeper(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{Class: func(s *v1alpha1.DatabaseClassSpec) { s.Deletion.UndoWindow = &metav1.Duration{} }})
	c := w.Claim("orphan", func(s *spec) { s.DeletionPolicy = "orphan" })
	w.Make(c)
	w.Ready(c)
	w.Gone(c)
	w.Sweeper.Sweep(t.Context())
	if got := w.Server.Query(t, "", "SELECT count(*) FROM pg_database WHERE datname = '"+c.Status.Database+"'"); got[0] != "1" {
		t.Error("the orphaned database is gone")
	}
}

func TestDeletionIsNeverStuck(t *testing.T) {
	t.Parallel()
	t.Run("when the class's Secret is gone before anything was made", func(t *testing.T) {
		t.Parallel()
		w := world.New(t, world.Options{})
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "administrator"}}
		if err := w.Delete(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		c := w.Claim("stuck")
		w.Make(c)
		w.Expect(c, v1alpha1.ServerReady, metav1.ConditionFalse, "")
		w.Gone(c)
	})
	t.Run("when the class never existed", func(t *testing.T) {
		t.Parallel()
		w := world.New(t, world.Options{})
		c := w.Claim("classless", func(s *spec) { s.Class = "no-such-class" })
		w.Make(c)
		w.Expect(c, v1alpha1.Admitted, metav1.ConditionFalse, "ClassNotFound")
		w.Gone(c)
	})
}

func TestClassStaysWhileUsed(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	c := w.Claim("user")
	w.Make(c)
	w.Ready(c)
	if err := w.Delete(t.Context(), w.Class); err != nil {
		t.Fatal(err)
	}
	w.Expect(w.Class, v1alpha1.Unused, metav1.ConditionFalse, "InUse")
	late := w.Claim("late")
	w.Make(late)
	w.Expect(late, v1alpha1.Admitted, metav1.ConditionFalse, "ClassDeleting")
	w.Gone(late)
	w.Gone(c)
	w.Gone(w.Class)
}

func TestClassRefusesAllAtOnce(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	c := w.Claim("greedy", func(s *spec) {
		s.EnableSuperUser, s.EnableReplicationRole = ptr.To(true), ptr.To(true)
		s.Shape, s.Extensions = "db.t4g.medium", []string{"file_fdw"}
		s.SourceDataFrom = &v1alpha1.SourceDataFrom{Type: "database", Database: &v1alpha1.SourceDatabase{SecretRef: &v1alpha1.SecretReference{Name: "x", Namespace: "other"}}}
	})
	w.Make(c)
	got := w.Expect(c, v1alpha1.Admitted, metav1.ConditionFalse, "NotAllowed")
	for _, want := range []string{"spec.enableSuperUser", "spec.enableReplicationRole", "spec.shape", "spec.extensions[0]", "spec.sourceDataFrom", "spec.sourceDataFrom.database.secretRef.namespace"} {
		if !strings.Contains(got.Message, want+":") {
			t.Errorf("no word of %s in: %s", want, got.Message)
		}
	}
}

func TestMajorVersionIsNeverChangedSilently(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	c := w.Claim("version")
	w.Make(c)
	w.Ready(c)
	w.Change(c, func() { c.Spec.DBVersion = "17" })
	w.Expect(c, v1alpha1.Ready, metav1.ConditionFalse, "")
	if _, err := w.As(w.Secret("version"), "SELECT 1"); err != nil {
		t.Errorf("the database is not reachable any more: %v", err)
	}
}

func TestHostileNamesAreOnlyNames(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	for i, hostile := range []string{`x"; DROP DATABASE postgres; --`, `o'rder$1 %s`, "größe_датабаза", `back\slash {{.}}`, "select"} {
		name := hostile + w.Namespace[len(w.Namespace)-4:]
		c := w.Claim(fmt.Sprintf("hostile-%d", i), func(s *spec) {
			s.DatabaseName, s.UserName, s.Schemas = name, name, []string{hostile}
		})
		w.Make(c)
		w.Ready(c)
		got, err := w.As(w.Secret(c.Name), "SELECT current_database()")
		if err != nil || got != name {
			t.Errorf("%q became %q: %v", name, got, err)
		}
	}
}

func TestRotationOnDemandAndRevocation(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{Class: func(s *v1alpha1.DatabaseClassSpec) {
		s.Rotation.Propagation = &metav1.Duration{Duration: time.Second}
	}})
	c := w.Claim("rotate")
	w.Make(c)
	w.Ready(c)
	first := w.Secret("rotate")
	old, err := w.Login(first)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close(t.Context())
	w.Change(c, func() { c.Spec.Rotation.MinVersion = 2 })
	w.Until("version 2", func() (bool, string) {
		w.Ready(c)
		return c.Status.Credential.Version == 2, fmt.Sprint(c.Status.Credential.Version)
	})
	w.Expect(c, v1alpha1.NoStaleLogin, metav1.ConditionFalse, "StaleLoginInUse")
	if conn, err := w.Login(first); err != nil {
		t.Errorf("the previous login was closed while a session uses it: %v", err)
	} else {
		_ = conn.Close(t.Context())
	}
	second := w.Secret("rotate")
	if first["username"] == second["username"] || first["password"] == second["password"] {
		t.Error("the Secret still tells the old login")
	}
	w.Change(c, func() { c.Spec.Rotation.RevokedThrough = 2 })
	w.Until("version 3", func() (bool, string) {
		w.Ready(c)
		return c.Status.Credential.Version == 3 && c.Status.Credential.Previous == "", fmt.Sprint(c.Status.Credential)
	})
	for which, secret := range map[string]map[string]string{"first": first, "second": second} {
		if _, err := w.Login(secret); err == nil {
			t.Errorf("the %s login survives its revocation", which)
		}
	}
	if _, err := old.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a session of the revoked login goes on")
	}
	if _, err := w.As(w.Secret("rotate"), "SELECT 1"); err != nil {
		t.Errorf("the new login: %v", err)
	}
}

func TestReplicationRole(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{Class: func(s *v1alpha1.DatabaseClassSpec) { s.Allow.Replication = true }})
	c := w.Claim("replica", func(s *spec) { s.EnableReplicationRole = ptr.To(true) })
	w.Make(c)
	w.Ready(c)
	query := "SELECT rolreplication FROM pg_roles WHERE rolname = '" + c.Status.Credential.Login + "'"
	if got := w.Server.Query(t, "", query); got[0] != "true" && got[0] != "t" {
		t.Errorf("rolreplication = %s", got[0])
	}
	w.Change(c, func() { c.Spec.EnableReplicationRole = nil })
	w.Ready(c)
	if got := w.Server.Query(t, "", query); got[0] != "false" && got[0] != "f" {
		t.Errorf("rolreplication stays %s", got[0])
	}
}

func TestWrongAdministratorIsExplained(t *testing.T) {
	t.Parallel()
	admin := testkit.Postgres(t, 15).Target()
	admin.Password = "not-the-password"
	w := world.New(t, world.Options{Admin: &admin})
	c := w.Claim("refused")
	w.Make(c)
	got := w.Expect(c, v1alpha1.ServerReady, metav1.ConditionFalse, "LoginRefused")
	if strings.Contains(got.Message, admin.Password) {
		t.Error("the message shows the password")
	}
	w.Expect(w.Class, v1alpha1.Ready, metav1.ConditionFalse, "LoginRefused")
}

var errCode = func(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

func TestOtherTenantsAreKeptOut(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{})
	mine, theirs := w.Claim("mine"), w.Claim("theirs")
	w.Make(mine)
	w.Make(theirs)
	w.Ready(mine)
	w.Ready(theirs)
	secret := w.Secret("mine")
	secret["uri_dsn.txt"] = strings.Replace(secret["uri_dsn.txt"], "/"+mine.Status.Database+"?", "/"+theirs.Status.Database+"?", 1)
	if _, err := w.Login(secret); errCode(err) != "42501" {
		t.Errorf("a tenant logs in to another's database: %v", err)
	}
}
