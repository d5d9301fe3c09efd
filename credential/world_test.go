package credential_test

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/step"
)

const (
	owner       = "shop_orders"
	period      = time.Hour
	propagation = 2 * time.Minute
	settling    = 3 * propagation // a rotation and its hold are over by then
)

// killed is the panic that stands for SIGKILL.
type killed struct{}

// strike is what happens to one effect: it is applied or not, and then the
// process is killed or the caller is told an error.
type strike struct {
	applied, kill bool
	err           error
	downtime      time.Duration // until the next process starts
}

// world is one claim's credential: the API server and the kernel are real, and
// the PostgreSQL server is a model that knows logins, verifiers and sessions.
// After every effect it checks what must hold at every moment.
type world struct {
	t      testing.TB
	api    client.WithWatch
	client client.WithWatch // the api, with strikes
	key    client.ObjectKey
	clock  *clocktesting.FakePassiveClock
	keeper *credential.Keeper
	server *server

	effects, at int
	strike      strike

	told      []told           // what the Secret told, oldest first
	passwords map[string]int64 // every password that was journalled, and its version
	hold      time.Duration    // the class's propagation time
	readers   readers          // proxies
	tampered  bool             // the Secret is not berth's work at the moment
	said      []string         // texts of errors, events and conditions
}

type told struct {
	login, password string
	version         int64
	replaced        time.Time // zero while the Secret tells it
}

func newWorld(t testing.TB) *world {
	t.Helper()
	config := testkit.APIServer(t)
	shared.Do(func() { shared.client, shared.err = dial(config) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	api := shared.client
	w := &world{t: t, api: api, passwords: map[string]int64{}, hold: propagation,
		clock: clocktesting.NewFakePassiveClock(time.Date(2030, 1, 1, 12, 0, 0, 500, time.UTC))}
	w.server = &server{world: w, logins: map[string]*login{}}
	w.client = interceptor.NewClient(api, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return w.effect(func() error { return c.Create(ctx, o, opts...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			return w.effect(func() error { return c.Update(ctx, o, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return w.effect(func() error { return c.Delete(ctx, o, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			return w.effect(func() error { return c.Patch(ctx, o, p, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return w.effect(func() error { return c.SubResource(sub).Patch(ctx, o, p, opts...) })
		},
	})
	claim := &v1alpha1.DatabaseClaim{ObjectMeta: metav1.ObjectMeta{Namespace: testkit.Namespace(t), Name: "orders"}}
	if err := api.Create(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	w.key = client.ObjectKeyFromObject(claim)
	w.restart()
	t.Cleanup(w.checkNoSecretWasSaid)
	return w
}

// shared is the one client of all worlds: each of its own would ask the server
// for all its kinds again.
var shared struct {
	sync.Once
	client client.WithWatch
	err    error
}

func dial(config *rest.Config) (client.WithWatch, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	return client.NewWithWatch(config, client.Options{Scheme: scheme})
}

// restart is a new process: whatever the old one remembered is gone.
func (w *world) restart() {
	w.keeper = &credential.Keeper{Client: w.client, Live: w.api, Clock: w.clock, Readers: w}
}

// readers are the slots that pods use.
type readers map[string]string

// Readers makes the world tell who uses which login.
func (w *world) Readers(string, client.ObjectKey) []credential.Reader {
	var all []credential.Reader
	for pod, slot := range w.readers {
		slot, trouble, _ := strings.Cut(slot, " ")
		all = append(all, credential.Reader{Pod: pod, Login: owner + slot, Trouble: trouble})
	}
	return all
}

// OnReaders tells nobody: the tests begin every pass themselves.
func (w *world) OnReaders(func(string, client.ObjectKey)) {}

// arm has the effect of this number, counted from now, meet the strike.
func (w *world) arm(n int, s strike) { w.at, w.strike = w.effects+n, s }

func (w *world) effect(apply func() error) error {
	w.effects++
	if w.effects != w.at {
		err := apply()
		w.check()
		return err
	}
	if w.strike.applied {
		if err := apply(); err != nil {
			return err
		}
		w.check()
	}
	if w.strike.kill {
		panic(killed{})
	}
	return w.strike.err
}

func (w *world) tenant(c *v1alpha1.DatabaseClaim) credential.Tenant {
	return credential.Tenant{
		Object: c, Kind: naming.ClaimKind, SecretName: "app", Owner: owner, Spec: c.Spec.Rotation,
		Password:  v1alpha1.PasswordPolicy{Length: 15, Complexity: "enabled"},
		Policy:    v1alpha1.RotationPolicy{Period: metav1.Duration{Duration: period}, Propagation: &metav1.Duration{Duration: w.hold}},
		Consumers: &c.Status.Consumers, Current: &c.Status.Credential,
		Connect: func(login, password string) credential.Connection {
			return credential.Connection{Host: "db", Port: 5432, Database: owner, Username: login, Password: password, SSLMode: "disable",
				URI: "postgres://" + login + ":" + password + "@db", DSN: "user=" + login + " password=" + password}
		},
	}
}

func (w *world) reconciler() *step.Reconciler[*v1alpha1.DatabaseClaim, *credential.Rotation] {
	return &step.Reconciler[*v1alpha1.DatabaseClaim, *credential.Rotation]{
		Client: w.client, Clock: w.clock, Events: w,
		Plan: step.Plan[*v1alpha1.DatabaseClaim, *credential.Rotation]{
			Kind: "DatabaseClaim", Finalizer: naming.Finalizer, Root: v1alpha1.Ready,
			Open: func(ctx context.Context, c *v1alpha1.DatabaseClaim) (*credential.Rotation, error) {
				return w.keeper.Open(ctx, w.tenant(c), w.server, func(err error) step.Outcome { return step.Failed("ServerFailed", err) })
			},
			Up: []step.Step[*credential.Rotation]{
				step.Do(v1alpha1.CredentialReady, func(ctx context.Context, r *credential.Rotation) step.Outcome { return r.Prepare(ctx) }),
				step.Do(v1alpha1.SecretPublished, func(ctx context.Context, r *credential.Rotation) step.Outcome { return r.Publish(ctx) }),
				step.Do(v1alpha1.NoStaleLogin, func(ctx context.Context, r *credential.Rotation) step.Outcome { return r.Retire(ctx) }).Aside(),
			},
			Down: []step.Step[*credential.Rotation]{
				step.Do(v1alpha1.SecretWithdrawn, func(ctx context.Context, r *credential.Rotation) step.Outcome { return r.Withdraw(ctx) }),
			},
		},
	}
}

// Eventf makes the world the recorder of its own events.
func (w *world) Eventf(_, _ runtime.Object, _, reason, _, format string, args ...any) {
	w.said = append(w.said, reason+": "+fmt.Sprintf(format, args...))
}

// pass reconciles once; a killed process is followed by a new one.
func (w *world) pass() (result ctrl.Result, err error) {
	defer func() {
		if err != nil {
			w.said = append(w.said, err.Error())
		}
		switch r := recover(); r.(type) {
		case nil:
		case killed:
			w.clock.SetTime(w.clock.Now().Add(w.strike.downtime))
			w.restart()
			err = errors.New("killed")
		default:
			panic(r)
		}
	}()
	return w.reconciler().Reconcile(w.t.Context(), w.claim())
}

// run lets time pass, with every look that the passes ask for.
func (w *world) run(d time.Duration) {
	w.t.Helper()
	until := w.clock.Now().Add(d)
	for range 300 {
		result, err := w.pass()
		w.check()
		now := w.clock.Now()
		if err != nil {
			if now.After(until) { // the process was down; what it missed takes its time
				until = now.Add(d)
			}
			continue
		}
		next := now.Add(result.RequeueAfter)
		if result.RequeueAfter == 0 || next.After(until) {
			if until.After(now) {
				w.clock.SetTime(until)
			}
			w.check()
			return
		}
		w.clock.SetTime(next)
	}
	w.t.Fatalf("300 passes did not settle; last said %q", w.said[max(0, len(w.said)-5):])
}

// jump sets the clock to another time, while no time passes.
func (w *world) jump(d time.Duration) {
	w.clock.SetTime(w.clock.Now().Add(d))
	for i := range w.told {
		w.told[i].replaced = w.told[i].replaced.Add(d)
	}
}

func (w *world) claim() *v1alpha1.DatabaseClaim {
	w.t.Helper()
	c := &v1alpha1.DatabaseClaim{}
	if err := w.api.Get(w.t.Context(), w.key, c); err != nil {
		w.t.Fatal(err)
	}
	for _, condition := range c.Status.Conditions {
		w.said = append(w.said, condition.Message)
	}
	return c
}

func (w *world) edit(change func(*v1alpha1.RotationSpec)) {
	w.t.Helper()
	c := w.claim()
	change(&c.Spec.Rotation)
	if err := w.api.Update(w.t.Context(), c); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) rotate() {
	w.edit(func(s *v1alpha1.RotationSpec) { s.MinVersion = w.credential().Version + 1 })
}

func (w *world) revoke() {
	w.edit(func(s *v1alpha1.RotationSpec) { s.RevokedThrough = w.credential().Version })
}

func (w *world) credential() v1alpha1.CredentialStatus {
	w.t.Helper()
	if c := w.claim().Status.Credential; c != nil {
		return *c
	}
	return v1alpha1.CredentialStatus{}
}

// secret is the Secret of this name, or nil.
func (w *world) secret(name string) *corev1.Secret {
	w.t.Helper()
	s := &corev1.Secret{}
	err := w.api.Get(w.t.Context(), client.ObjectKey{Namespace: w.key.Namespace, Name: name}, s)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) journal() (version int64, password string) {
	w.t.Helper()
	s := w.secret(naming.Journal(naming.ClaimKind, w.key.Name))
	if s == nil {
		return 0, ""
	}
	version, err := strconv.ParseInt(string(s.Data["version"]), 10, 64)
	if err != nil {
		w.t.Errorf("the journal's version: %v", err)
	}
	return version, string(s.Data["password"])
}

// remove deletes a Secret as a person would.
func (w *world) remove(name string) {
	w.t.Helper()
	if s := w.secret(name); s != nil {
		if err := w.api.Delete(w.t.Context(), s); err != nil {
			w.t.Fatal(err)
		}
	}
}

// check holds at every moment, between any two effects.
func (w *world) check() {
	w.t.Helper()
	version, password := w.journal()
	if version > 0 {
		if of, ok := w.passwords[password]; ok && of != version {
			w.t.Errorf("versions %d and %d have the same password", of, version)
		}
		w.passwords[password] = version
	}
	s := w.secret("app")
	if s == nil || w.tampered {
		return
	}
	now := told{login: string(s.Data["username"]), password: string(s.Data["password"])}
	now.version = w.passwords[now.password]
	if n := len(w.told); n == 0 || w.told[n-1] != now {
		if n > 0 {
			w.told[n-1].replaced = w.clock.Now()
		}
		w.told = append(w.told, now)
	}
	if naming.Login(owner, now.version) != now.login {
		w.t.Errorf("the Secret tells login %s with the password of version %d", now.login, now.version)
	}
	if !w.server.opens(now.login, now.password) {
		w.t.Errorf("effect %d: what the Secret tells, version %d with %s, cannot log in", w.effects, now.version, now.login)
	}
	for _, old := range w.told[:len(w.told)-1] {
		if w.revoked(old.version) || !w.clock.Now().Before(old.replaced.Add(propagation)) {
			continue
		}
		if !w.server.opens(old.login, old.password) {
			w.t.Errorf("effect %d: a consumer that has version %d since %s ago cannot log in", w.effects, old.version, w.clock.Since(old.replaced))
		}
	}
}

func (w *world) revoked(version int64) bool {
	return version <= w.claim().Spec.Rotation.RevokedThrough
}

// checkSettled holds when nothing is under way.
func (w *world) checkSettled() {
	w.t.Helper()
	current := w.credential()
	version, password := w.journal()
	s := w.secret("app")
	if s == nil {
		w.t.Fatal("there is no Secret")
	}
	if string(s.Data["username"]) != current.Login || current.Login != naming.Login(owner, current.Version) {
		w.t.Errorf("the Secret tells %s, the status %s of version %d", s.Data["username"], current.Login, current.Version)
	}
	if version != 0 && (version != current.Version || password != string(s.Data["password"])) {
		w.t.Errorf("the journal has version %d, the status %d, or their passwords differ", version, current.Version)
	}
	if current.Previous != "" || current.PreviousVersion != 0 {
		w.t.Errorf("login %s of version %d is still open", current.Previous, current.PreviousVersion)
	}
	for name, l := range w.server.logins {
		if l.open != (name == current.Login) {
			w.t.Errorf("login %s: open is %t, and %s is current", name, l.open, current.Login)
		}
	}
	spec := w.claim().Spec.Rotation
	if current.Version < spec.MinVersion || current.Version <= spec.RevokedThrough {
		w.t.Errorf("version %d does not satisfy %+v", current.Version, spec)
	}
}

func (w *world) checkNoSecretWasSaid() {
	for password := range w.passwords {
		for _, text := range w.said {
			if strings.Contains(text, password) {
				w.t.Error("a text for people holds a password")
			}
		}
	}
	for _, text := range w.said {
		if strings.Contains(text, "SCRAM-SHA-256") {
			w.t.Error("a text for people holds a verifier")
		}
	}
}

// server is a model of PostgreSQL: what a credential needs of it, and no more.
type server struct {
	world  *world
	logins map[string]*login

	down     bool // answers nothing
	refusing bool // lets nobody log in
}

type login struct {
	verifier string
	open     bool
	sessions int
}

var errDown = errors.New("connection refused")

func (s *server) do(apply func()) error {
	if s.down {
		return errDown
	}
	return s.world.effect(func() error { apply(); return nil })
}

func (s *server) login(name string) *login {
	if s.logins[name] == nil {
		s.logins[name] = &login{}
	}
	return s.logins[name]
}

func (s *server) SetLogin(_ context.Context, name, verifier string) error {
	return s.do(func() {
		version, password := s.world.journal()
		if naming.Login(owner, version) != name || !matches(verifier, password) {
			s.world.t.Errorf("login %s gets a password that the journal, at version %d, does not hold", name, version)
		}
		l := s.login(name)
		if l.sessions > 0 && l.open && !matches(l.verifier, password) && !s.world.revoked(s.world.credential().Version) {
			s.world.t.Errorf("login %s got another password while it was in use", name)
		}
		l.verifier, l.open = verifier, true
	})
}

func (s *server) TestLogin(_ context.Context, name, password string) error {
	if s.down {
		return errDown
	}
	if s.refusing || !s.opens(name, password) {
		return fmt.Errorf("password authentication failed for user %q", name)
	}
	return nil
}

func (s *server) Sessions(_ context.Context, name string) (int, error) {
	if s.down {
		return 0, errDown
	}
	return s.login(name).sessions, nil
}

func (s *server) EndSessions(_ context.Context, name string) (ended int, err error) {
	err = s.do(func() { ended, s.login(name).sessions = s.login(name).sessions, 0 })
	return ended, err
}

func (s *server) DisableLogin(_ context.Context, name string) error {
	return s.do(func() {
		if c := s.world.credential(); s.login(name).sessions > 0 && s.world.claim().Spec.Rotation.RevokedThrough == 0 {
			s.world.t.Errorf("login %s was closed while in use, at version %d", name, c.Version)
		}
		s.login(name).open = false
	})
}

func (s *server) opens(name, password string) bool {
	l := s.logins[name]
	return l != nil && l.open && matches(l.verifier, password)
}

var proofs sync.Map

// matches is SCRAM's check, without the exchange around it.
func matches(verifier, password string) bool {
	key := verifier + "\n" + password
	if known, ok := proofs.Load(key); ok {
		return known.(bool)
	}
	var iterations int
	head, keys, _ := strings.Cut(strings.TrimPrefix(verifier, "SCRAM-SHA-256$"), "$")
	count, salt64, _ := strings.Cut(head, ":")
	stored64, _, _ := strings.Cut(keys, ":")
	iterations, err := strconv.Atoi(count)
	salt, err2 := base64.StdEncoding.DecodeString(salt64)
	stored, err3 := base64.StdEncoding.DecodeString(stored64)
	if errors.Join(err, err2, err3) != nil {
		return false
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, salted)
	mac.Write([]byte("Client Key"))
	made := sha256.Sum256(mac.Sum(nil))
	ok := hmac.Equal(made[:], stored)
	proofs.Store(key, ok)
	return ok
}
