package claim_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
)

// hold is the propagation time on a stage: how old what a consumer knows may be.
const hold = time.Second

// stage is a world whose controllers see the server through a proxy, and can
// be cut off at any effect they have.
type stage struct {
	*world.World
	t     *testing.T
	fuse  *testkit.Fuse
	proxy *testkit.FaultProxy
	claim *v1alpha1.DatabaseClaim
	owner string
	first map[string]string // the Secret before the story began
}

func newStage(t *testing.T, window time.Duration) *stage {
	t.Helper()
	s := &stage{t: t, fuse: &testkit.Fuse{}}
	server := testkit.Postgres(t, 15)
	s.proxy = testkit.NewFaultProxy(t, server.Target(), s.fuse)
	s.World = world.New(t, world.Options{
		Server: server, Admin: ptr.To(s.proxy.Target()), Transport: s.fuse.Transport, Idle: true,
		Class: func(c *v1alpha1.DatabaseClassSpec) {
			c.Deletion.UndoWindow = &metav1.Duration{Duration: window}
			c.Rotation.Propagation = &metav1.Duration{Duration: hold}
		},
	})
	s.claim = s.Claim("orders")
	s.owner = s.Namespace + "_orders"
	return s
}

// beside is a Secret as it is, but for the way around the proxy: what a
// consumer does is no effect of berth.
func (s *stage) beside(secret map[string]string) map[string]string {
	secret["uri_dsn.txt"] = strings.Replace(secret["uri_dsn.txt"], ":"+secret["port"]+"/", fmt.Sprintf(":%d/", s.Server.Target().Port), 1)
	return secret
}

// read is the claim's Secret, nil when there is none.
func (s *stage) read(ctx context.Context) (map[string]string, error) {
	secret := &corev1.Secret{}
	err := s.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: "orders"}, secret)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	data := map[string]string{}
	for key, value := range secret.Data {
		data[key] = string(value)
	}
	return s.beside(data), err
}

func (s *stage) now() map[string]string {
	s.t.Helper()
	secret, err := s.read(s.t.Context())
	if err != nil || secret == nil {
		s.t.Fatalf("the claim has no Secret: %v", err)
	}
	return secret
}

// settled reports whether the claim is Ready with one login, as its newest spec asks.
func (s *stage) settled() (bool, string) {
	c := s.claim
	if err := s.Get(s.t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
		return false, err.Error()
	}
	for _, condition := range []string{v1alpha1.Ready, v1alpha1.NoStaleLogin} {
		if !meta.IsStatusConditionTrue(c.Status.Conditions, condition) || c.Status.ObservedGeneration != c.Generation {
			return false, fmt.Sprint(c.Status.Conditions)
		}
	}
	version := max(c.Spec.Rotation.MinVersion, c.Spec.Rotation.RevokedThrough+1)
	return c.Status.Credential.Version >= version, fmt.Sprint(c.Status.Credential)
}

// gone reports whether the API server knows the claim no more.
func (s *stage) gone() (bool, string) {
	err := s.Get(s.t.Context(), client.ObjectKeyFromObject(s.claim), s.claim)
	return apierrors.IsNotFound(err), fmt.Sprint(s.claim.Status.Conditions)
}

// quiet reports whether the controllers have had no effect for a while.
func (s *stage) quiet() func() (bool, string) {
	last, since := s.fuse.Count(), time.Now()
	return func() (bool, string) {
		if n := s.fuse.Count(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 200*time.Millisecond, fmt.Sprintf("%d effects so far", last)
	}
}

// logins that are open on the server.
func (s *stage) logins() string {
	return strings.Join(s.Server.Query(s.t, "", "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname LIKE '"+s.owner+"%' ORDER BY 1"), " ")
}

// made is everything on the server that bears the claim's name.
func (s *stage) made() string {
	return strings.Join(s.Server.Query(s.t, "", `SELECT 'database ' || datname FROM pg_database WHERE datname LIKE '`+s.owner+`%'
		UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname LIKE '`+s.owner+`%' ORDER BY 1`), ", ")
}

// secrets are the names of all Secrets of the namespace.
func (s *stage) secrets() string {
	s.t.Helper()
	list := &corev1.SecretList{}
	if err := s.List(s.t.Context(), list, client.InNamespace(s.Namespace)); err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return strings.Join(names, " ")
}

// consumer logs in again and again by the Secret as it is at that moment.
type consumer struct {
	logins, failed atomic.Int64
	why            atomic.Value
}

// consume starts a consumer that ends with the test or by stop. It only counts
// a failure with a Secret that was younger than the propagation time, and that
// was not replaced by a revocation meanwhile.
func (s *stage) consume() (c *consumer, stop func()) {
	c = &consumer{}
	ctx, cancel := context.WithCancel(s.t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		tick := time.NewTicker(25 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			s.attempt(ctx, c)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		work.Wait()
	})
	s.t.Cleanup(stop)
	return c, stop
}

func (s *stage) attempt(ctx context.Context, c *consumer) {
	started := time.Now()
	secret, err := s.read(ctx)
	if err != nil || secret == nil {
		return
	}
	conn, err := s.Login(secret)
	if err == nil {
		c.logins.Add(1)
		_ = conn.Close(context.WithoutCancel(ctx))
		return
	}
	if ctx.Err() != nil || time.Since(started) > hold {
		return
	}
	if newer, _ := s.read(ctx); newer == nil || s.claim.Spec.Rotation.RevokedThrough > 0 && newer["password"] != secret["password"] {
		return
	}
	c.failed.Add(1)
	c.why.Store(fmt.Sprintf("%s: %v", secret["username"], err))
}
