package chart_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/dev"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/process"
)

const home = "berth-system"

// planes are the control planes of this process, which all end with it.
var planes struct {
	sync.Mutex
	stop []func() error
}

func TestMain(m *testing.M) {
	testkit.Main(m, func() error {
		var failures []error
		for _, stop := range planes.stop {
			failures = append(failures, stop())
		}
		return errors.Join(failures...)
	})
}

// stage is an API server without a trace of berth. Nothing but what a test
// installs by the chart is there.
type stage struct {
	client.Client // an administrator's
	plane         *dev.ControlPlane
	dir           string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	dir, err := os.MkdirTemp("", "berth-chart-")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	plane, err := dev.StartControlPlane(ctx, dev.Options{Dir: filepath.Join(dir, "plane"), Bin: testkit.Bin(t, "k8s"), Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	planes.Lock()
	planes.stop = append(planes.stop, func() error { return errors.Join(plane.Stop(), os.RemoveAll(dir)) })
	planes.Unlock()
	if err := plane.WriteKubeconfig(filepath.Join(dir, "admin")); err != nil {
		t.Fatal(err)
	}
	return &stage{Client: newClient(t, plane.Config()), plane: plane, dir: dir}
}

var shared struct {
	sync.Once
	*stage
}

// installed is a stage with the chart on it. Tests that share it leave the
// release as it is.
func installed(t *testing.T) *stage {
	t.Helper()
	shared.Do(func() {
		s := newStage(t)
		s.install(t)
		shared.stage = s
	})
	if shared.stage == nil {
		t.Fatal("the chart could not be installed, as another test says")
	}
	return shared.stage
}

func newClient(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// helm runs Helm against the stage, or against no cluster when s is nil.
func helm(t *testing.T, s *stage, args ...string) (string, error) {
	t.Helper()
	return helmIn(t, s, home, args...)
}

func helmIn(t *testing.T, s *stage, namespace string, args ...string) (string, error) {
	t.Helper()
	program := testkit.Bin(t, "helm")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v; run: make tools", err)
	}
	state := t.TempDir()
	env := append(os.Environ(), "HELM_CACHE_HOME="+state, "HELM_CONFIG_HOME="+state, "HELM_DATA_HOME="+state, "KUBECONFIG="+os.DevNull)
	if s != nil {
		env = append(env, "KUBECONFIG="+filepath.Join(s.dir, "admin"))
	}
	var out bytes.Buffer
	err := process.Run(t.Context(), process.Spec{Path: program, Args: append(args, "--namespace", namespace), Env: env, Log: &out})
	return out.String(), err
}

// install installs the chart, or upgrades it, with values as in --set.
func (s *stage) install(t *testing.T, values ...string) {
	t.Helper()
	out, err := helm(t, s, append([]string{"upgrade", "--install", "berth", ".", "--create-namespace"}, set(values)...)...)
	if err != nil {
		t.Fatalf("installing: %v\n%s", err, out)
	}
	controller := newClient(t, s.account(t, "berth-controller"))
	stray := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "stray"}}
	eventually(t, "the policies to be enforced", func() (bool, string) { // the API server learns of them a moment later
		guarded := s.Delete(t.Context(), definition("databaseclaims.berth.dev"), client.DryRunAll)
		bounded := controller.Create(t.Context(), stray, client.DryRunAll)
		return guarded != nil && bounded != nil, fmt.Sprint(guarded, bounded)
	})
}

func set(values []string) (flags []string) {
	for _, value := range values {
		flags = append(flags, "--set", value)
	}
	return flags
}

// make creates objects.
func (s *stage) make(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := s.Create(t.Context(), o); err != nil {
			t.Fatalf("making %T %s: %v", o, o.GetName(), err)
		}
	}
}

// account is the access of a ServiceAccount of the chart, with what RBAC gives it.
func (s *stage) account(t *testing.T, name string) *rest.Config {
	t.Helper()
	config, err := s.plane.User(user(name), "system:serviceaccounts", "system:serviceaccounts:"+home)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func user(account string) string { return "system:serviceaccount:" + home + ":" + account }

// run starts the program of a Deployment with its own arguments and identity,
// at addresses of this machine, and returns the one of port.
func (s *stage) run(t *testing.T, deployment string, port int) (address string) {
	t.Helper()
	d := &appsv1.Deployment{}
	if err := s.Get(t.Context(), client.ObjectKey{Namespace: home, Name: deployment}, d); err != nil {
		t.Fatal(err)
	}
	c := d.Spec.Template.Spec.Containers[0]
	args := slices.Concat(c.Command[1:], c.Args)
	for i, arg := range args {
		flag, at, listens := strings.Cut(arg, "=:")
		if !listens {
			continue
		}
		here := freeAddress(t)
		if args[i] = flag + "=" + here; at == strconv.Itoa(port) {
			address = here
		}
	}
	out := &bytes.Buffer{}
	p, err := process.Start(process.Spec{
		Path: testkit.Program(t), Args: append(args, "--metrics-address=0"), Log: out,
		Env: append(os.Environ(), "KUBECONFIG="+s.kubeconfig(t, d.Spec.Template.Spec.ServiceAccountName)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
		if strings.Contains(out.String(), "forbidden") {
			t.Errorf("%s lacks a right", deployment)
		}
		if t.Failed() {
			t.Logf("%s says:\n%s", deployment, out)
		}
	})
	return address
}

func (s *stage) kubeconfig(t *testing.T, account string) string {
	t.Helper()
	access := s.account(t, account)
	config := clientcmdapi.NewConfig()
	config.Clusters["stage"] = &clientcmdapi.Cluster{Server: access.Host, CertificateAuthorityData: access.CAData}
	config.AuthInfos["stage"] = &clientcmdapi.AuthInfo{ClientCertificateData: access.CertData, ClientKeyData: access.KeyData}
	config.Contexts["stage"] = &clientcmdapi.Context{Cluster: "stage", AuthInfo: "stage"}
	config.CurrentContext = "stage"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// class makes a class on the PostgreSQL of this process, whose administrator
// is in berth's own namespace.
func (s *stage) class(t *testing.T, name string) {
	t.Helper()
	admin := testkit.Postgres(t, 15).Target()
	secret := &corev1.Secret{StringData: map[string]string{"uri_dsn.txt": admin.URI()}}
	secret.Namespace, secret.Name = home, "pg-admin-"+name
	class := &v1alpha1.DatabaseClass{Spec: v1alpha1.DatabaseClassSpec{
		Backend: "existing", SSLMode: "disable",
		Server: &v1alpha1.ServerAccess{SecretRef: v1alpha1.SecretReference{Namespace: home, Name: secret.Name}},
	}}
	class.Name = name
	s.make(t, secret, class)
}

func (s *stage) namespace(t *testing.T, name string) {
	t.Helper()
	s.make(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

func (s *stage) claim(t *testing.T, namespace, name, class string) *v1alpha1.DatabaseClaim {
	t.Helper()
	c := &v1alpha1.DatabaseClaim{Spec: v1alpha1.DatabaseClaimSpec{Class: class}}
	c.Namespace, c.Name = namespace, name
	s.make(t, c)
	return c
}

// object is a kind of berth.
type object interface {
	client.Object
	Conditions() *[]metav1.Condition
}

func (s *stage) awaitReady(t *testing.T, o object) {
	t.Helper()
	eventually(t, o.GetName()+" to be Ready", func() (bool, string) {
		if err := s.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return false, err.Error()
		}
		ready := meta.FindStatusCondition(*o.Conditions(), v1alpha1.Ready)
		return ready != nil && ready.Status == metav1.ConditionTrue, fmt.Sprint(*o.Conditions())
	})
}

func eventually(t *testing.T, what string, holds func() (bool, string)) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		ok, last := holds()
		if ok {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waiting for %s: %s", what, last)
		case <-tick.C:
		}
	}
}
