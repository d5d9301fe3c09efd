package switchboard_test

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/switchboard"
)

// A leader has the Service lead to it, and the next one takes it over.
func TestTheServiceLeadsToTheLeader(t *testing.T) {
	t.Parallel()
	e := serve(t) // for its client
	namespace := testkit.Namespace(t)
	for _, ip := range []string{"10.1.2.3", "10.1.2.4"} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- switchboard.Serve(ctx, switchboard.Options{
				Board: switchboard.New(slog.New(slog.DiscardHandler)), API: e.API, Listener: listener, Namespace: namespace,
				Address: "berth-switchboard.berth-system.svc:9444", Endpoint: net.ParseIP(ip), Log: slog.New(slog.DiscardHandler),
			})
		}()
		slice, notice := &discoveryv1.EndpointSlice{}, &corev1.ConfigMap{}
		key := client.ObjectKey{Namespace: namespace, Name: "berth-switchboard"}
		tick := time.NewTicker(20 * time.Millisecond)
		deadline := time.After(20 * time.Second)
		for len(slice.Endpoints) == 0 || slice.Endpoints[0].Addresses[0] != ip || e.API.Get(t.Context(), key, notice) != nil {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("the Service leads to %v", slice.Endpoints)
			}
			_ = e.API.Get(t.Context(), key, slice) // until it is there
		}
		tick.Stop()
		if got := slice.Labels[discoveryv1.LabelServiceName]; got != "berth-switchboard" {
			t.Errorf("it is of Service %q", got)
		}
		if diff := cmp.Diff(int32(listener.Addr().(*net.TCPAddr).Port), *slice.Ports[0].Port); diff != "" {
			t.Error(diff)
		}
		if notice.Data["address"] != "berth-switchboard.berth-system.svc:9444" {
			t.Errorf("proxies are told %q", notice.Data["address"])
		}
		cancel()
		check(t, <-ended)
	}
}
