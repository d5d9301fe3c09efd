package credential_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
)

// moves are what can happen to a credential. Each leaves a settled one behind.
var moves = map[string]struct {
	before, move func(*world) // before runs without strikes
	effects      int          // of an undisturbed move
}{
	"the first credential": {
		before:  func(*world) {},
		move:    func(w *world) { w.run(settling) },
		effects: 5, // finalizer, journal, login, Secret, status
	},
	"a rotation on schedule": {
		before:  func(w *world) { w.run(settling); w.clock.SetTime(w.credential().RotatesAt.Time) },
		move:    func(w *world) { w.run(settling) },
		effects: 6, // journal, login, Secret, status; login, status
	},
	"a rotation on demand that jumps": {
		before:  func(w *world) { w.run(settling) },
		move:    func(w *world) { w.edit(func(s *v1alpha1.RotationSpec) { s.MinVersion = 5 }); w.run(settling) },
		effects: 6,
	},
	"a revocation": {
		before:  func(w *world) { w.run(settling) },
		move:    func(w *world) { w.revoke(); w.run(settling) },
		effects: 7, // journal, login, sessions, Secret, login, sessions, status
	},
	"a revocation amid a rotation": {
		before:  func(w *world) { w.run(settling); w.rotate(); w.run(time.Second) },
		move:    func(w *world) { w.revoke(); w.run(settling) },
		effects: 7,
	},
}

var lostRace = apierrors.NewConflict(schema.GroupResource{Resource: "any"}, "any", errors.New("somebody was faster"))

var strikes = map[string]strike{
	"the process is killed before":             {kill: true},
	"the process is killed after":              {kill: true, applied: true},
	"the process is killed after, for a while": {kill: true, applied: true, downtime: 10 * time.Minute},
	"an error is told before":                  {err: errors.New("connection reset")},
	"an error is told after":                   {err: errors.New("connection reset"), applied: true},
	"a conflict is told":                       {err: lostRace},
}

func TestAnyStrikeAtAnyEffect(t *testing.T) {
	t.Parallel()
	for name, m := range moves {
		for n := 1; n <= m.effects; n++ {
			for how, s := range strikes {
				t.Run(fmt.Sprintf("%s, effect %d: %s", name, n, how), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t)
					m.before(w)
					w.arm(n, s)
					m.move(w)
					if w.effects < w.at {
						t.Fatalf("the move has fewer than %d effects", n)
					}
					w.checkSettled()
				})
			}
		}
		t.Run(name+", undisturbed", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			m.before(w)
			from := w.effects
			m.move(w)
			w.checkSettled()
			if got := w.effects - from; got != m.effects {
				t.Errorf("%d effects, want %d", got, m.effects)
			}
			from = w.effects
			w.run(time.Second)
			if w.effects != from {
				t.Errorf("a settled credential had %d more effects", w.effects-from)
			}
		})
	}
}

// A walk mixes everything, in an order that its seed fixes.
func TestRandomWalks(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, seed))
			w := newWorld(t)
			w.run(time.Second)
			all := []strike{}
			for _, name := range []string{"the process is killed before", "the process is killed after", "an error is told after", "a conflict is told"} {
				all = append(all, strikes[name])
			}
			for range 25 {
				walk(w, random, all)
			}
			w.server.down = false
			for _, l := range w.server.logins {
				l.sessions = 0
			}
			w.at = 0
			w.run(2 * settling)
			w.checkSettled()
		})
	}
}

func walk(w *world, random *rand.Rand, all []strike) {
	current := w.credential()
	switch random.IntN(11) {
	case 0:
		w.edit(func(s *v1alpha1.RotationSpec) { s.MinVersion = current.Version + 1 + random.Int64N(3) })
	case 1:
		w.edit(func(s *v1alpha1.RotationSpec) { s.MinVersion = 0 })
	case 2:
		w.edit(func(s *v1alpha1.RotationSpec) { s.RevokedThrough = current.Version + random.Int64N(2) })
	case 3:
		w.remove("app")
	case 4:
		if version, _ := w.journal(); version == current.Version && w.secret("app") != nil {
			w.remove(naming.Journal(naming.ClaimKind, w.key.Name))
		}
	case 5:
		w.restart()
	case 6:
		w.server.down = !w.server.down
	case 7:
		if s := w.secret("app"); s != nil {
			w.server.login(string(s.Data["username"])).sessions++
		}
	case 8:
		for _, l := range w.server.logins {
			l.sessions = 0
		}
	case 9:
		w.clock.SetTime(w.clock.Now().Add(period))
	}
	if random.IntN(2) == 0 {
		w.arm(1+random.IntN(6), all[random.IntN(len(all))])
	}
	for range 1 + random.IntN(4) {
		result, err := w.pass()
		w.check()
		if err == nil && random.IntN(2) == 0 {
			w.clock.SetTime(w.clock.Now().Add(result.RequeueAfter))
		}
	}
}

func TestASecretDeletedByHandComesBackTheSame(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(*world){"by the same process": func(*world) {}, "by a new process": (*world).restart} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.run(settling)
			w.remove("app")
			again(w)
			w.run(time.Second)
			w.checkSettled()
			if len(w.told) != 1 || w.credential().Version != 1 {
				t.Errorf("the Secret told %d passwords up to version %d, want the one it had", len(w.told), w.credential().Version)
			}
		})
	}
}

func TestAJournalDeletedByHandChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(settling)
	w.remove(naming.Journal(naming.ClaimKind, w.key.Name))
	w.restart()
	w.run(settling)
	w.checkSettled()
	if len(w.told) != 1 {
		t.Error("the password changed")
	}
	w.rotate()
	w.run(settling)
	w.checkSettled()
}

func TestSecretAndJournalDeletedIsARotation(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*world){
		"when settled":                     func(w *world) { w.run(settling) },
		"while the previous login is open": func(w *world) { w.run(settling); w.rotate(); w.run(time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			before(w)
			version := w.credential().Version
			w.remove("app")
			w.remove(naming.Journal(naming.ClaimKind, w.key.Name))
			w.run(2 * settling)
			w.checkSettled()
			if got := w.credential().Version; got != version+1 {
				t.Errorf("version %d, want %d", got, version+1)
			}
		})
	}
}

func TestATamperedSecretIsRepaired(t *testing.T) {
	t.Parallel()
	for name, tamper := range map[string]func(*corev1.Secret){
		"another password": func(s *corev1.Secret) { s.Data["password"] = []byte("guess") },
		"another login":    func(s *corev1.Secret) { s.Data["username"] = []byte("postgres") },
		"a key too many":   func(s *corev1.Secret) { s.Data["extra"] = []byte("x") },
		"no keys":          func(s *corev1.Secret) { s.Data = nil },
		"no owner":         func(s *corev1.Secret) { s.OwnerReferences = nil },
		"no labels":        func(s *corev1.Secret) { s.Labels = nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.run(settling)
			want := w.secret("app")
			broken := want.DeepCopy()
			tamper(broken)
			if err := w.api.Update(t.Context(), broken); err != nil {
				t.Fatal(err)
			}
			w.tampered = true
			if _, err := w.pass(); err != nil {
				t.Fatal(err)
			}
			w.tampered = false
			w.checkSettled()
			w.check()
			got := w.secret("app")
			if !reflect.DeepEqual(got.Data, want.Data) || !reflect.DeepEqual(got.Labels, want.Labels) || !reflect.DeepEqual(got.OwnerReferences, want.OwnerReferences) {
				t.Error("the Secret is not what it was")
			}
			if len(w.told) != 1 {
				t.Error("the password changed")
			}
		})
	}
}

func TestASecretOfSomebodyElseIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.tampered = true
	theirs := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.key.Namespace, Name: "app"}, Data: map[string][]byte{"password": []byte("theirs")}}
	if err := w.api.Create(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	result, err := w.pass()
	if err != nil || result.RequeueAfter != time.Minute {
		t.Errorf("got %v, %v, want another look in a minute", result, err)
	}
	c := meta.FindStatusCondition(w.claim().Status.Conditions, v1alpha1.SecretPublished)
	if c == nil || c.Reason != "SecretNotOurs" || !strings.Contains(c.Message, "spec.secretName") {
		t.Errorf("condition %+v", c)
	}
	if !meta.IsStatusConditionTrue(w.claim().Status.Conditions, "Stalled") {
		t.Error("the claim is not stalled")
	}
	if got := w.secret("app"); got.ResourceVersion != theirs.ResourceVersion {
		t.Error("the Secret was touched")
	}
	if w.claim().Status.Credential != nil {
		t.Error("the status tells a credential that no Secret has")
	}
	w.remove("app")
	w.tampered = false
	w.run(settling)
	w.checkSettled()
	if len(w.passwords) != 1 {
		t.Errorf("%d passwords were made, want 1", len(w.passwords))
	}
}

func TestDeletionWithdrawsSecretAndJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(settling)
	if err := w.api.Delete(t.Context(), w.claim()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pass(); err != nil {
		t.Fatal(err)
	}
	if w.secret("app") != nil || w.secret(naming.Journal(naming.ClaimKind, w.key.Name)) != nil {
		t.Error("a Secret is left")
	}
}

func TestRevocationEndsTheSessionsOfBothLogins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(settling)
	w.rotate()
	w.run(time.Second)
	w.server.login(owner + "_a").sessions = 3
	w.server.login(owner + "_b").sessions = 2
	before := w.told
	w.revoke()
	if _, err := w.pass(); err != nil {
		t.Fatal(err)
	}
	w.check()
	w.checkSettled()
	for _, old := range before {
		if w.server.opens(old.login, old.password) {
			t.Errorf("version %d can still log in", old.version)
		}
	}
	for name, l := range w.server.logins {
		if l.sessions > 0 {
			t.Errorf("login %s still has %d sessions", name, l.sessions)
		}
	}
	text := strings.Join(w.said, "\n")
	for _, want := range []string{"Revocation ended 3 sessions of shop_orders_a.", "Login shop_orders_b is closed; 2 sessions were ended."} {
		if !strings.Contains(text, want) {
			t.Errorf("nobody said %q", want)
		}
	}
}

func TestRevocationOfWhatIsStillToCome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(settling)
	w.server.login(owner + "_a").sessions = 1
	w.edit(func(s *v1alpha1.RotationSpec) { s.RevokedThrough = 4 })
	if _, err := w.pass(); err != nil {
		t.Fatal(err)
	}
	w.checkSettled()
	if got := w.credential().Version; got != 6 {
		t.Errorf("version %d, want 6: beyond 4, and not the login of 1", got)
	}
	if w.server.login(owner+"_a").sessions > 0 {
		t.Error("the revoked session goes on")
	}
}

func TestThePreviousLoginIsHeld(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*world){
		"for the propagation time": func(*world) {},
		"anew after a restart":     func(w *world) { w.clock.SetTime(w.clock.Now().Add(propagation / 2)); w.restart() },
		"though every proxy has the new login: others may read the Secret": func(w *world) { w.readers = readers{"pod-1": "_b", "pod-2": "_b"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.run(settling)
			w.rotate()
			if _, err := w.pass(); err != nil {
				t.Fatal(err)
			}
			prepare(w)
			w.run(propagation - time.Second)
			if !w.server.login(owner + "_a").open {
				t.Fatal("closed too early")
			}
			w.run(2 * time.Second)
			w.checkSettled()
		})
	}
}

func TestThePreviousLoginIsHeldWhileAProxyUsesIt(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		then func(*world)
		open bool
	}{
		"until it reports the new one": {func(w *world) { w.readers["pod-1"] = "_b" }, false},
		"until it is gone":             {func(w *world) { delete(w.readers, "pod-1") }, false},
		"for as long as it does":       {func(*world) {}, true},
		"but not once it is revoked":   {func(w *world) { w.edit(func(s *v1alpha1.RotationSpec) { s.RevokedThrough = 1 }) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.run(settling)
			w.rotate()
			w.readers = readers{"pod-1": "_a", "pod-2": "_b"}
			w.run(10 * propagation)
			status := w.claim().Status
			c := meta.FindStatusCondition(status.Conditions, v1alpha1.NoStaleLogin)
			if c.Reason != "AwaitingProxies" || !strings.Contains(c.Message, "pod-1.") || strings.Contains(c.Message, "pod-2") {
				t.Fatalf("the condition says %s: %s", c.Reason, c.Message)
			}
			want := &v1alpha1.Consumers{Proxies: 2, Current: 1, Waiting: []string{"pod-1"}}
			if diff := cmp.Diff(want, status.Consumers); diff != "" {
				t.Error(diff)
			}
			tc.then(w)
			w.run(settling)
			if w.server.login(owner+"_a").open != tc.open {
				t.Errorf("the previous login is open: %t", !tc.open)
			}
		})
	}
}

func TestASessionOnThePreviousLoginPausesRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(settling)
	w.server.login(owner + "_a").sessions = 1
	w.rotate()
	w.run(settling)
	if c := meta.FindStatusCondition(w.claim().Status.Conditions, v1alpha1.NoStaleLogin); c.Reason != "StaleLoginInUse" {
		t.Errorf("reason %s", c.Reason)
	}
	if !meta.IsStatusConditionTrue(w.claim().Status.Conditions, v1alpha1.Ready) {
		t.Error("the claim is not Ready meanwhile")
	}
	w.clock.SetTime(w.clock.Now().Add(3 * period))
	w.run(time.Minute)
	if got := w.credential(); got.Version != 2 || got.Previous != owner+"_a" {
		t.Errorf("version %d, previous %q: it rotated into a login in use", got.Version, got.Previous)
	}
	w.server.login(owner + "_a").sessions = 0
	w.run(settling)
	w.checkSettled()
	if got := w.credential().Version; got != 3 {
		t.Errorf("version %d, want the rotation that was due", got)
	}
}

func TestAnOldViewClosesNoLogin(t *testing.T) {
	t.Parallel()
	for name, later := range map[string]func(*world){
		"that the next version uses":   func(w *world) { w.rotate(); w.run(settling) },
		"that is held for consumers":   func(w *world) { w.rotate(); w.run(settling); w.rotate(); w.run(time.Second) },
		"after a restart":              func(w *world) { w.rotate(); w.run(settling); w.rotate(); w.run(time.Second); w.restart() },
		"when the journal is gone too": func(w *world) { w.rotate(); w.run(settling); w.remove(naming.Journal(naming.ClaimKind, w.key.Name)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.run(settling)
			w.rotate()
			w.run(time.Second)
			old := w.claim() // version 2, with the login of version 1 still open, and nobody who needs it
			w.run(settling)
			later(w)
			w.hold = 0
			if result, err := w.reconciler().Reconcile(t.Context(), old); err != nil || result.RequeueAfter > time.Second {
				t.Errorf("a pass on an old view got %v, %v, want another look soon", result, err)
			}
			w.hold = propagation
			w.check()
			w.run(settling)
			w.checkSettled()
		})
	}
}

func TestAnOldViewRewritesNoLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(settling)
	w.rotate()
	old := w.claim() // version 1, which is asked to become 2
	w.run(settling)
	w.rotate()
	w.run(time.Second) // version 3, while consumers may still use 2
	if result, err := w.reconciler().Reconcile(t.Context(), old); err != nil || result.RequeueAfter > time.Second {
		t.Errorf("a pass on an old view got %v, %v, want another look soon", result, err)
	}
	w.check()
	w.run(settling)
	w.checkSettled()
	if len(w.passwords) != 3 {
		t.Errorf("%d passwords were made, want 3", len(w.passwords))
	}
}

func TestARequestBetweenPublicationAndStatus(t *testing.T) {
	t.Parallel()
	for name, s := range strikes {
		t.Run("when "+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.run(settling)
			w.rotate()
			w.arm(4, s) // the status, after journal, login and Secret
			_, _ = w.pass()
			w.edit(func(s *v1alpha1.RotationSpec) { s.MinVersion = 8 })
			w.run(2 * settling)
			w.checkSettled()
		})
	}
}

func TestALoginThatFailsItsTestIsNotPublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(settling)
	w.server.refusing = true
	w.rotate()
	if _, err := w.pass(); err == nil {
		t.Error("no error was told")
	}
	if len(w.told) != 1 {
		t.Error("a login that does not work was published")
	}
	c := meta.FindStatusCondition(w.claim().Status.Conditions, v1alpha1.CredentialReady)
	if c == nil || c.Reason != "ServerFailed" || !strings.Contains(c.Message, "testing login shop_orders_b: ") {
		t.Errorf("condition %+v", c)
	}
	w.server.refusing = false
	w.run(settling)
	w.checkSettled()
	if got := w.credential().Version; got != 2 || len(w.passwords) != 2 {
		t.Errorf("version %d after %d passwords, want 2 after 2", got, len(w.passwords))
	}
}

func TestAStatusThatWasLostIsFoundAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(settling)
	w.rotate()
	w.run(settling)
	c := w.claim()
	c.Status.Credential = nil
	if err := w.api.Status().Update(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.run(settling)
	w.checkSettled()
	if got := w.credential().Version; got != 2 || len(w.told) != 2 {
		t.Errorf("version %d after %d passwords, want what was there", got, len(w.told))
	}
}

func TestAClockThatJumps(t *testing.T) {
	t.Parallel()
	const year = 365 * 24 * time.Hour
	w := newWorld(t)
	w.run(settling)
	rotated := func(when string, want int64) {
		t.Helper()
		if got := w.credential().Version; got != want {
			t.Errorf("%s: version %d, want %d", when, got, want)
		}
	}
	w.jump(year)
	w.run(settling)
	w.checkSettled()
	rotated("a year ahead", 2)
	w.run(period / 2)
	rotated("half a period later", 2)
	w.jump(-year)
	w.run(period * 8 / 10)
	rotated("a year back, most of a period later", 2)
	w.run(period * 3 / 10)
	rotated("and a period later", 3)
	w.jump(-year)
	w.run(settling)
	rotated("another year back", 3)
	w.jump(year)
	w.run(settling)
	w.checkSettled()
	rotated("and ahead again", 4)
}

func TestRotationKeepsItsPeriodAcrossRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 20 {
		w.restart()
		w.run(period / 4)
	}
	// Five periods, each up to a tenth shorter, and a hold here and there.
	if got := w.credential().Version; got < 5 || got > 6 {
		t.Errorf("version %d after five periods", got)
	}
}

func TestTroubleOfAProxyIsToldOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(settling)
	w.readers = readers{"pod-1": "_a the Secret is malformed", "pod-2": "_a"}
	w.run(settling)
	if diff := cmp.Diff([]v1alpha1.Trouble{{Pod: "pod-1", Message: "the Secret is malformed"}}, w.claim().Status.Consumers.Troubled); diff != "" {
		t.Error(diff)
	}
	for range 3 {
		if _, err := w.pass(); err != nil {
			t.Fatal(err)
		}
	}
	told := 0
	for _, text := range w.said {
		if text == "ProxyTrouble: The proxy of pod pod-1 serves with what it has: the Secret is malformed" {
			told++
		}
	}
	if told != 1 {
		t.Errorf("told %d times: %q", told, w.said)
	}
	w.readers["pod-1"] = "_a"
	w.run(settling)
	if got := w.claim().Status.Consumers.Troubled; len(got) > 0 {
		t.Errorf("still told of: %v", got)
	}
}
