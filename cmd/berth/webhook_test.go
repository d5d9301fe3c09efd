package main

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/testkit"
)

// Once berth dev is ready it answers for pods, also where an earlier run left a
// registration of an address that nobody listens at.
func TestDevInjectsSidecars(t *testing.T) {
	t.Parallel()
	data := testkit.OpenDir(t)
	for range 2 {
		p, out, api := startDev(t, data)
		pod := &corev1.Pod{}
		pod.Namespace, pod.GenerateName = "default", "app-"
		pod.Labels = map[string]string{"berth.dev/claim": "orders", "berth.dev/dbproxy": "enabled"}
		pod.Spec.Containers = []corev1.Container{{Name: "app", Image: "app:1"}}
		if err := api.Create(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		if len(pod.Spec.InitContainers) != 1 || pod.Spec.InitContainers[0].Name != "dbproxy" {
			t.Errorf("init containers %v", pod.Spec.InitContainers)
		}
		if err := errors.Join(p.Stop(time.Minute), p.Err()); err != nil {
			t.Fatalf("berth dev ended with %v: %s", err, out)
		}
	}
}
