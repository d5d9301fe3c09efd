package claim_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/internal/testkit/world"
	"github.com/berth-dev/berth/step"
)

// page is a log that many write and one reads.
type page struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *page) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

func TestNoPasswordIsEverSeen(t *testing.T) {
	t.Parallel()
	server := testkit.NewPostgres(t, 15)
	admin := server.Admin(t)
	server.LogStatements(t)
	log := &page{}
	w := world.New(t, world.Options{
		Server: server, Admin: &admin, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Class: func(s *v1alpha1.DatabaseClassSpec) {
			s.Rotation.Propagation, s.Deletion.UndoWindow = &metav1.Duration{}, &metav1.Duration{}
		},
	})
	c := w.Claim("whisper")
	passwords, verifiers, said := map[string]string{"the administrator's": admin.Password}, "", &strings.Builder{}
	hear := func(o world.Object) { fmt.Fprintln(said, describe(o)) }
	remember := func(which string) {
		passwords[which] = w.Secret("whisper")["password"]
		verifiers += strings.Join(server.Query(t, "", "SELECT rolpassword FROM pg_authid WHERE rolname LIKE '"+c.Status.Owner+"%' AND rolpassword IS NOT NULL"), "\n") + "\n"
	}

	w.Make(c)
	w.Ready(c)
	remember("the first")
	for which, ask := range map[string]func(){
		"that of a rotation":   func() { c.Spec.Rotation.MinVersion = c.Status.Credential.Version + 1 },
		"that of a revocation": func() { c.Spec.Rotation.RevokedThrough = c.Status.Credential.Version },
	} {
		before := c.Status.Credential.Version
		w.Change(c, ask)
		w.Until("a new version", func() (bool, string) {
			w.Expect(c, v1alpha1.NoStaleLogin, metav1.ConditionTrue, "")
			return c.Status.Credential.Version > before, fmt.Sprint(c.Status.Credential)
		})
		remember(which)
		hear(c)
	}
	wrong := admin
	wrong.Password = "wrong-but-still-a-secret"
	passwords["a wrong one"] = wrong.Password
	class := w.MakeClass(w.Namespace+"-wrong", wrong, nil)
	refused := w.Claim("refused", func(s *spec) { s.Class = class.Name })
	w.Make(refused)
	w.Expect(refused, v1alpha1.ServerReady, metav1.ConditionFalse, "LoginRefused")
	hear(refused)
	w.Expect(class, v1alpha1.Ready, metav1.ConditionFalse, "LoginRefused")
	hear(class)
	w.Gone(refused)
	w.Gone(c)
	hear(c)
	w.Sweeper.Sweep(t.Context())

	places := map[string]string{
		"conditions": said.String(), "controllers' log": log.String(), "server's log": server.Log(),
		"events": eventsOf(t, w), "metrics": metricsText(t), "command lines": commandLines(t),
	}
	for place, text := range places {
		if len(text) == 0 {
			t.Errorf("there are no %s to search", place)
		}
		for which, password := range passwords {
			if strings.Contains(text, password) {
				t.Errorf("%s: shows %s password", place, which)
			}
		}
		for verifier := range strings.Lines(verifiers) {
			if verifier = strings.TrimSpace(verifier); verifier != "" && place != "server's log" && strings.Contains(text, verifier) {
				t.Errorf("%s: shows a verifier", place)
			}
		}
	}
	if len(passwords) != 5 || !strings.Contains(places["server's log"], "SCRAM-SHA-256$") {
		t.Errorf("%d passwords were searched for in %d bytes of the server's log", len(passwords), len(places["server's log"]))
	}
}

func describe(o world.Object) string { return fmt.Sprint(*o.Conditions()) }

func eventsOf(t *testing.T, w *world.World) string {
	t.Helper()
	newer, older := &eventsv1.EventList{}, &corev1.EventList{}
	for _, list := range []client.ObjectList{newer, older} {
		if err := w.List(t.Context(), list, client.InNamespace(w.Namespace)); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprint(newer.Items, older.Items)
}

func metricsText(t *testing.T) string {
	t.Helper()
	kernel := prometheus.NewRegistry()
	step.Register(kernel)
	var text strings.Builder
	for _, registry := range []prometheus.Gatherer{kernel, metrics.Registry} {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&text, families)
	}
	return text.String()
}

// commandLines are those of every process that runs now.
func commandLines(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, file := range files {
		line, _ := os.ReadFile(file) // a process may have ended meanwhile
		text.Write(line)
	}
	return text.String()
}
