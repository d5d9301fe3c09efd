package claim_test

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
	"github.com/berth-dev/berth/postgres"
)

// unreachable demands that c says so, and that waiting helps.
func unreachable(t *testing.T, w *world.World, c *v1alpha1.DatabaseClaim) {
	t.Helper()
	w.Expect(c, v1alpha1.Ready, metav1.ConditionFalse, "Unreachable")
	if meta.FindStatusCondition(c.Status.Conditions, "Stalled") != nil {
		t.Errorf("%s says that a person is needed", c.Name)
	}
}

func TestDeadServerDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	const good, dead, rounds = 30, 10, 3
	w := world.New(t, world.Options{})
	proxy := testkit.NewFaultProxy(t, w.Server.Target(), nil)
	speak := proxy.Silence()
	silent := w.MakeClass(w.Namespace+"-silent", proxy.Target(), nil)
	w.Expect(silent, v1alpha1.Ready, metav1.ConditionFalse, "Unreachable")
	batch := func(name string) time.Duration {
		started := time.Now()
		var claims []*v1alpha1.DatabaseClaim
		for i := range good {
			claims = append(claims, w.Claim(fmt.Sprintf("%s-%d", name, i)))
			w.Make(claims[i])
		}
		for _, c := range claims {
			w.Ready(c)
		}
		return time.Since(started)
	}
	var stuck []*v1alpha1.DatabaseClaim
	best := 0.0
	for round := range rounds {
		without := batch(fmt.Sprintf("alone-%d", round))
		for i := range dead {
			c := w.Claim(fmt.Sprintf("dead-%d-%d", round, i), func(s *spec) { s.Class = silent.Name })
			w.Make(c)
			stuck = append(stuck, c)
		}
		with := batch(fmt.Sprintf("beside-%d", round))
		ratio := float64(with) / float64(without)
		t.Logf("%d claims took %s alone, %s beside %d on a dead server", good, without, with, len(stuck))
		if best == 0 || ratio < best {
			best = ratio
		}
	}
	if best >= 2 {
		t.Errorf("a dead server made the others take %.1f times as long in each of %d rounds", best, rounds)
	}
	for _, c := range stuck {
		unreachable(t, w, c)
	}
	speak()
	for _, c := range stuck {
		w.Ready(c)
	}
	w.Ready(silent)
}

func TestServerThatComesBackIsFoundAgain(t *testing.T) {
	t.Parallel()
	server := testkit.NewPostgres(t, 15)
	// A server that freezes in the middle of an answer is given up after twice the statement timeout.
	limits := postgres.Limits{StatementTimeout: 2 * time.Second}
	w := world.New(t, world.Options{Server: server, Limits: limits, Class: func(s *v1alpha1.DatabaseClassSpec) {
		s.DriftInterval = metav1.Duration{Duration: time.Second}
	}})
	early := w.Claim("early")
	w.Make(early)
	w.Ready(early)
	secret := w.Secret("early")
	for name, outage := range map[string]func() (end func()){
		"stopped": func() func() {
			server.Stop(t)
			return func() { server.Start(t) }
		},
		"killed": func() func() {
			server.Kill(t)
			return func() { server.Start(t) }
		},
		"frozen": func() func() { return server.Freeze(t) },
	} {
		end := outage()
		late := w.Claim("late-" + name)
		w.Make(late)
		unreachable(t, w, late)
		unreachable(t, w, early)
		end()
		w.Ready(late)
		w.Ready(early)
		if err := w.Get(t.Context(), client.ObjectKeyFromObject(early), early); err != nil || early.Status.Credential.Version != 1 {
			t.Errorf("a server that was %s cost version %d: %v", name, early.Status.Credential.Version, err)
		}
		if _, err := w.As(secret, "SELECT 1"); err != nil {
			t.Errorf("after the server was %s: %v", name, err)
		}
	}
}
