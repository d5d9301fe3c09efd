//go:build e2e

package stories_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// One cluster and one server serve all promises. A load runs beside them from
// the first to the last: nothing that happens to berth may reach it.
func TestPods(t *testing.T) {
	k := begin(t)
	k.database(t)
	k.namespace(t, "shop")
	k.namespace(t, "mail")
	orders := k.claim(t, "shop", "orders")
	k.claim(t, "mail", "letters")
	load := k.load(t, orders)
	t.Run("promises", func(t *testing.T) {
		for name, promise := range map[string]func(*testing.T, *kit){
			"a pod queries by the Secret of its claim":                        queries,
			"a labelled Job reaches its database through dbproxy, and ends":   jobEnds,
			"dsnexec runs its statements at a credential and at the next one": executes,
			"a tenant reaches nothing of another":                             strangers,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				promise(t, k)
			})
		}
		t.Run("clients of a labelled Deployment notice none of three rotations", func(t *testing.T) {
			t.Parallel()
			for range 3 {
				k.rotate(t, orders)
			}
			load.undisturbed(t)
			k.told(t, orders)
		})
	})
	t.Run("when the leading controller is killed another goes on", func(t *testing.T) { failover(t, k) })
	t.Run("an upgrade of the chart disturbs no claim in use", func(t *testing.T) {
		version := orders.Status.Credential.Version
		k.install(t, "controller.resources.requests.cpu=60m", "webhook.resources.requests.cpu=25m")
		k.awaitReady(t, orders, time.Minute)
		if orders.Status.Credential.Version != version {
			t.Errorf("the upgrade rotated the credential from version %d to %d", version, orders.Status.Credential.Version)
		}
		jobEnds(t, k) // the webhook that is new is trusted
		k.told(t, orders)
		load.undisturbed(t)
	})
	t.Run("berth has every right that it needs", func(t *testing.T) {
		said, err := k.kubectl(t, "logs", "-n", home, "-l", "app.kubernetes.io/name=berth", "--tail", "-1", "--prefix")
		if err != nil || strings.Contains(said, "forbidden") {
			t.Errorf("%v\n%s", err, said)
		}
	})
}

// told waits until every proxy of the claim has told the switchboard that it
// uses the current login.
func (k *kit) told(t *testing.T, c *v1alpha1.DatabaseClaim) {
	t.Helper()
	eventually(t, "proxies to have told which login they use", time.Minute, func() error {
		err := k.Get(t.Context(), client.ObjectKeyFromObject(c), c)
		if told := c.Status.Consumers; err == nil && (told == nil || told.Proxies == 0 || told.Current != told.Proxies) {
			err = fmt.Errorf("%+v", told)
		}
		return err
	})
}

// load is a Deployment whose pods use their database all the time: clients
// that stay, and others that connect anew.
type load struct {
	*kit
	namespace, name, database string
	before                    int
}

func (k *kit) load(t *testing.T, c *v1alpha1.DatabaseClaim) *load {
	t.Helper()
	labels := asks(c.Name, "dbproxy", "enabled")
	labels["app"] = "load"
	p := pod(c.Namespace, "load", "", labels)
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	// It runs after the sidecar is up, which is a promise too.
	p.Spec.InitContainers = []corev1.Container{beside(shell("tables", `psql -Xqc "CREATE TABLE hits (login text DEFAULT session_user)"`), c.Name)}
	p.Spec.Containers = []corev1.Container{
		beside(shell("stays", `echo "INSERT INTO hits DEFAULT VALUES" > /tmp/hit.sql; exec pgbench -n -M simple -c 4 -R 40 -T 86400 -P 5 -f /tmp/hit.sql`), c.Name),
		beside(shell("comes", `while :; do psql -Xqc "INSERT INTO hits DEFAULT VALUES" -c "SELECT pg_sleep(0.2)" > /tmp/said 2>&1 || { read -r line < /tmp/said; echo "FAILED $line"; }; done`), c.Name),
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: "load"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "load"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: p.Spec},
	}}
	k.make(t, d)
	l := &load{kit: k, namespace: c.Namespace, name: "load", database: c.Name}
	eventually(t, "the load", 2*time.Minute, func() error {
		if err := k.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
			return err
		}
		if d.Status.ReadyReplicas == 0 {
			return errors.New("its pod is not ready")
		}
		return nil
	})
	l.before = l.hits(t)
	return l
}

func (l *load) hits(t *testing.T) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(l.asked(t, l.database, "SELECT count(*) FROM hits"), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// undisturbed tells that no client has failed since the beginning, and that
// all still work.
func (l *load) undisturbed(t *testing.T) {
	t.Helper()
	pods := &corev1.PodList{}
	if err := l.List(t.Context(), pods, client.InNamespace(l.namespace), client.MatchingLabels{"app": l.name}); err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			if c.RestartCount > 0 {
				t.Errorf("container %s was restarted", c.Name)
			}
		}
	}
	for _, container := range []string{"stays", "comes"} {
		said, err := l.kubectl(t, "logs", "-n", l.namespace, "deployment/"+l.name, "-c", container)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(said) {
			if strings.Contains(line, "FAILED") || strings.Contains(line, "abort") || strings.Contains(line, "rror") {
				t.Errorf("%s: %s", container, line)
			}
		}
	}
	before := l.hits(t)
	eventually(t, "more work to be done", 10*time.Second, func() error {
		if l.hits(t) <= before+20 {
			return errors.New("the clients stand still")
		}
		return nil
	})
	t.Logf("%d transactions so far, by logins %s", before-l.before, strings.ReplaceAll(l.asked(t, l.database, "SELECT login, count(*) FROM hits GROUP BY 1"), "\n", ", "))
}

// rotate has the next version made, the Deployment's pods see it, and the
// previous login closed.
func (k *kit) rotate(t *testing.T, c *v1alpha1.DatabaseClaim) {
	t.Helper()
	before, began := c.DeepCopy(), time.Now()
	c.Spec.Rotation.MinVersion = c.Status.Credential.Version + 1
	if err := k.Patch(t.Context(), c, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next version", time.Minute, func() error {
		err := k.Get(t.Context(), client.ObjectKeyFromObject(c), c)
		if err == nil && c.Status.Credential.Version != c.Spec.Rotation.MinVersion {
			err = errors.New("it is not published")
		}
		return err
	})
	published := time.Since(began)
	k.nudge(t, c.Namespace)
	eventually(t, "the previous login to be closed", 4*time.Minute, func() error {
		err := k.Get(t.Context(), client.ObjectKeyFromObject(c), c)
		if err == nil && c.Status.Credential.Previous != "" {
			err = fmt.Errorf("%s is open: %v", c.Status.Credential.Previous, meta.FindStatusCondition(c.Status.Conditions, v1alpha1.NoStaleLogin))
		}
		return err
	})
	t.Logf("version %d was published after %.1f s, the login before it closed after %.1f s", c.Status.Credential.Version, published.Seconds(), time.Since(began).Seconds())
}

// nudge has kubelet look at mounted Secrets at once: it does when a pod
// changes, and about once a minute otherwise.
func (k *kit) nudge(t *testing.T, namespace string) {
	t.Helper()
	if out, err := k.kubectl(t, "annotate", "pods", "-n", namespace, "--all", "--overwrite", "stories.berth.dev/nudge="+fmt.Sprint(time.Now().UnixNano())); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func queries(t *testing.T, k *kit) {
	p := mounts(pod("shop", "query", bySecret+`psql -XAtc "SELECT current_database(), current_user" -c '\conninfo'`, nil), "orders")
	k.make(t, p)
	if said := k.ends(t, p, corev1.PodSucceeded); !strings.HasPrefix(said, "orders|shop_orders\n") || !strings.Contains(said, "SSL connection") {
		t.Errorf("it found %q", said)
	}
}

func jobEnds(t *testing.T, k *kit) {
	name := fmt.Sprintf("job-%d", time.Now().UnixNano())
	p := pod("shop", name, "", asks("orders", "dbproxy", "enabled"))
	p.Spec.Containers = []corev1.Container{beside(shell("app", `psql -Xqc "CREATE TABLE IF NOT EXISTS runs (name text)" -c "INSERT INTO runs VALUES ('`+name+`')"`), "orders")}
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: batchv1.JobSpec{
		BackoffLimit: new(int32(0)), Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels}, Spec: p.Spec},
	}}
	began := time.Now()
	k.make(t, j)
	eventually(t, "the Job to end", 2*time.Minute, func() error {
		if err := k.Get(t.Context(), client.ObjectKeyFromObject(j), j); err != nil {
			return err
		}
		if j.Status.Failed > 0 {
			t.Fatal("its pod failed")
		}
		if j.Status.CompletionTime == nil {
			return errors.New("it runs")
		}
		return nil
	})
	if got := k.asked(t, "orders", "SELECT count(*) FROM runs WHERE name = '"+name+"'"); got != "1" {
		t.Errorf("it ran %s times", got)
	}
	t.Logf("it ended after %.1f s", time.Since(began).Seconds())
}

const statements = `configs:
  seen:
    sources: [{driver: postgres, filename: /var/run/db-dsn/uri_dsn.txt}]
    destination: {driver: hotload, dsn: 'fsnotify://postgres/var/run/db-dsn/uri_dsn.txt'}
    commands:
      - command: CREATE TABLE IF NOT EXISTS seen (login text)
      - command: INSERT INTO seen VALUES ($1)
        args: ['{{ index . "/var/run/db-dsn/uri_dsn.txt" "user" }}']
`

func executes(t *testing.T, k *kit) {
	c := k.claim(t, "shop", "exec")
	k.make(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "statements"}, StringData: map[string]string{"config.yaml": statements}})
	p := pod("shop", "exec", "while read -r line; do :; done", asks("exec", "dsnexec", "enabled", "dsnexec-config", "statements"))
	p.Spec.Containers[0].Stdin = true // it waits
	k.make(t, p)
	seen := func(want string) {
		eventually(t, "dsnexec to have run for "+want, time.Minute, func() error {
			if k.asked(t, "exec", "SELECT to_regclass('seen') IS NOT NULL") != "t" {
				return errors.New("it has not run")
			}
			if got := k.asked(t, "exec", "SELECT string_agg(login, ' ' ORDER BY login) FROM seen"); got != want {
				return fmt.Errorf("it ran for %q", got)
			}
			return nil
		})
	}
	seen("shop_exec_a")
	k.rotate(t, c)
	seen("shop_exec_a shop_exec_b")
}

func strangers(t *testing.T, k *kit) {
	controllers := &corev1.PodList{}
	if err := k.List(t.Context(), controllers, client.InNamespace(home), client.MatchingLabels{"app.kubernetes.io/component": "controller"}); err != nil {
		t.Fatal(err)
	}
	address := controllers.Items[0].Status.PodIP
	p := mounts(pod("mail", "stranger", bySecret+`
psql -XAtc "SELECT 'own'"
DATABASE=orders; PGDATABASE=orders psql -XAtc "SELECT 1" 2>&1 || true
PGCONNECT_TIMEOUT=5 psql -XAt "host=`+address+` port=8081 sslmode=disable" -c "SELECT 1" 2>&1 || true
`, nil), "letters")
	k.make(t, p)
	said := k.ends(t, p, corev1.PodSucceeded)
	if !strings.HasPrefix(said, "own\n") {
		t.Errorf("it does not reach its own database: %s", said)
	}
	if !strings.Contains(said, `permission denied for database "orders"`) {
		t.Errorf("its login is not kept out of another's database: %s", said)
	}
	if !strings.Contains(said, address) || strings.Contains(said, "unexpectedly") || strings.Contains(said, "invalid response") {
		t.Errorf("it reaches berth's own port: %s", said)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "system:serviceaccount:mail:default", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:mail", "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "secrets", Namespace: "shop", Name: "orders"},
	}}
	k.make(t, review)
	if review.Status.Allowed {
		t.Error("its ServiceAccount may read another's Secret")
	}
	r := &v1alpha1.RoleClaim{Spec: v1alpha1.RoleClaimSpec{SourceDatabaseClaim: v1alpha1.ClaimReference{Namespace: "shop", Name: "orders"}}}
	r.Namespace, r.Name = "mail", "intruder"
	k.make(t, r)
	eventually(t, "an uninvited RoleClaim to be refused", time.Minute, func() error {
		if err := k.Get(t.Context(), client.ObjectKeyFromObject(r), r); err != nil {
			return err
		}
		if ready := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.Ready); ready == nil || ready.Reason != "NamespaceNotAllowed" {
			return fmt.Errorf("%v", r.Status.Conditions)
		}
		return nil
	})
}

func failover(t *testing.T, k *kit) {
	leader := func() string {
		lease := &coordinationv1.Lease{}
		if err := k.Get(t.Context(), client.ObjectKey{Namespace: home, Name: "controller.berth.dev"}, lease); err != nil {
			t.Fatal(err)
		}
		return *lease.Spec.HolderIdentity
	}
	before, began := leader(), time.Now()
	name, _, _ := strings.Cut(before, "_")
	k.kill(t, home, name)
	k.claim(t, "shop", "later")
	if after := leader(); after == before {
		t.Errorf("%s leads as before", after)
	}
	t.Logf("a claim made at that moment was Ready after %.1f s", time.Since(began).Seconds())
}
