package testkit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/deploy"
	"github.com/berth-dev/berth/dev"
)

// startTimeout covers a first start on a busy machine, where 4 s is usual.
const startTimeout = 2 * time.Minute

var controlPlane struct {
	sync.Once
	*dev.ControlPlane
	err error
}

// APIServer returns an administrator's access to the control plane that the
// test process shares, with the manifests of deploy installed.
func APIServer(t testing.TB) *rest.Config {
	t.Helper()
	return sharedControlPlane(t).Config()
}

// User returns the access of a user with no right but what RBAC grants.
func User(t testing.TB, name string, groups ...string) *rest.Config {
	t.Helper()
	config, err := sharedControlPlane(t).User(name, groups...)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// Client returns an administrator's client for the kinds in scheme, or for
// those of Kubernetes itself when scheme is nil.
func Client(t testing.TB, scheme *runtime.Scheme) client.Client {
	t.Helper()
	if scheme == nil {
		scheme = clientgoscheme.Scheme
	}
	c, err := client.New(APIServer(t), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Namespace makes a namespace for this test alone and returns its name. It is
// never deleted: nothing here would finish the deletion.
func Namespace(t testing.TB) string {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	if err := Client(t, nil).Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	return namespace.Name
}

func sharedControlPlane(t testing.TB) *dev.ControlPlane {
	t.Helper()
	repository := root(t)
	controlPlane.Do(func() { controlPlane.ControlPlane, controlPlane.err = startControlPlane(repository) })
	if controlPlane.err != nil {
		t.Fatal(controlPlane.err)
	}
	return controlPlane.ControlPlane
}

func startControlPlane(repository string) (*dev.ControlPlane, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	dir, err := os.MkdirTemp("", "berth-api-")
	if err != nil {
		return nil, fmt.Errorf("making folder: %w", err)
	}
	atExit(func() { _ = os.RemoveAll(dir) })
	c, err := dev.StartControlPlane(ctx, dev.Options{Dir: dir, Bin: filepath.Join(repository, "bin", "k8s"), Ephemeral: true})
	if err != nil {
		return nil, err
	}
	atExit(func() { _ = c.Stop() })
	return c, dev.InstallCRDs(ctx, c.Config(), deploy.Files)
}
