package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/berth-dev/berth/dev"
	"github.com/berth-dev/berth/e2e/cluster"
	"github.com/berth-dev/berth/e2e/node/policy"
	"github.com/berth-dev/berth/e2e/node/volume"
)

// serverFiles writes the certificates of the two servers.
func (a *authority) serverFiles(at cluster.Addresses) error {
	err := a.serverCertificate("kube-apiserver", cert.AltNames{
		DNSNames: []string{"kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		IPs:      ips(at.Node, at.APIService),
	})
	if err != nil {
		return err
	}
	if err := a.serverCertificate("kubelet-server", cert.AltNames{IPs: ips(at.Node)}); err != nil {
		return err
	}
	certificate, key, err := a.clientCertificate("kube-apiserver-kubelet-client")
	if err != nil {
		return err
	}
	return os.WriteFile(a.file("kubelet-client.pem"), append(certificate, key...), 0o600)
}

// The socket lies in the folder where both programs run.
const etcdSocket = "unix://client:1"

func (n *node) startControlPlane(context.Context) error {
	const peer = "unix://peer:1"
	return errors.Join(
		n.run("etcd", "--name=node", "--data-dir=data", "--log-level=warn", "--unsafe-no-fsync",
			"--listen-client-urls="+etcdSocket, "--advertise-client-urls="+etcdSocket,
			"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=node="+peer),
		n.run("containerd", "--config", configFile("containerd.toml")),
		n.run("kube-apiserver", n.apiArgs()...))
}

func (n *node) apiArgs() []string {
	pki := n.authority.file
	return []string{
		"--etcd-servers=" + etcdSocket,
		"--bind-address=" + n.Node, // pods reach it through the Service kubernetes
		"--advertise-address=" + n.Node,
		"--secure-port=6443",
		"--tls-cert-file=" + pki("kube-apiserver.pem"),
		"--tls-private-key-file=" + pki("kube-apiserver.pem"),
		"--client-ca-file=" + pki("ca.crt"),
		"--kubelet-client-certificate=" + pki("kubelet-client.pem"),
		"--kubelet-client-key=" + pki("kubelet-client.pem"),
		"--kubelet-certificate-authority=" + pki("ca.crt"),
		"--kubelet-preferred-address-types=InternalIP",
		// Controllers and scheduler wait for this authority, though no proxy has a
		// certificate with the name.
		"--requestheader-client-ca-file=" + pki("ca.crt"),
		"--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + n.authority.tokenKey(),
		"--service-account-signing-key-file=" + n.authority.tokenKey(),
		"--service-cluster-ip-range=" + n.Services,
		"--allow-privileged",
		"--profiling=false",
	}
}

func (n *node) awaitAPI(ctx context.Context) error {
	api, err := rest.HTTPClientFor(n.admin)
	if err != nil {
		return fmt.Errorf("making client: %w", err)
	}
	defer api.CloseIdleConnections()
	return until(ctx, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.admin.Host+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := api.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", response.Status)
		}
		return nil
	})
}

func (n *node) startNode(ctx context.Context) error {
	pki := n.authority.file
	controller, scheduler := pki("controller.kubeconfig"), pki("scheduler.kubeconfig")
	err := errors.Join(
		n.run("kube-controller-manager", "--kubeconfig="+controller,
			"--authentication-kubeconfig="+controller, "--authorization-kubeconfig="+controller,
			"--use-service-account-credentials", "--leader-elect=false", "--profiling=false", "--bind-address=127.0.0.1",
			"--kube-api-qps=200", "--kube-api-burst=400",
			"--service-account-private-key-file="+n.authority.tokenKey(), "--root-ca-file="+pki("ca.crt"),
			"--cluster-signing-cert-file="+pki("ca.crt"), "--cluster-signing-key-file="+pki("ca.key")),
		n.run("kube-scheduler", "--kubeconfig="+scheduler,
			"--authentication-kubeconfig="+scheduler, "--authorization-kubeconfig="+scheduler,
			"--leader-elect=false", "--profiling=false", "--bind-address=127.0.0.1"),
		n.run("kubelet", "--config="+configFile("kubelet.yaml"), "--kubeconfig="+pki("kubelet.kubeconfig"),
			"--root-dir="+filepath.Join(home, "kubelet"), "--hostname-override=node", "--node-ip="+n.Node),
		n.run("kube-proxy", "--config="+configFile("kube-proxy.yaml")),
		n.run("coredns", "-conf", configFile("Corefile")),
		dev.InstallCRDs(ctx, n.admin, os.DirFS(configFile("manifests"))))
	if err != nil {
		return err
	}
	return n.serveObjects(ctx)
}

// serveObjects runs what a cloud would give a cluster.
func (n *node) serveObjects(ctx context.Context) error {
	log, err := os.Create(filepath.Join(home, "logs", "node.log"))
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(log, nil)))
	mgr, err := ctrl.NewManager(n.admin, ctrl.Options{Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		return fmt.Errorf("making controllers: %w", err)
	}
	// To policies DNS is the pod that it is elsewhere.
	dns := policy.Pod{Namespace: "kube-system", Labels: map[string]string{"k8s-app": "kube-dns"}, Address: n.DNS}
	if err := errors.Join(
		volume.Add(mgr, filepath.Join(home, "volumes")),
		policy.Add(mgr, "/run/policies.nft", dns),
	); err != nil {
		return fmt.Errorf("adding controllers: %w", err)
	}
	go func() { n.fail(fmt.Errorf("running controllers: %w", mgr.Start(ctx))) }()
	return nil
}

// awaitPods returns once a pod that is made would run and find names.
func (n *node) awaitPods(ctx context.Context, began time.Time) error {
	c, err := client.New(n.admin, client.Options{})
	if err != nil {
		return fmt.Errorf("making client: %w", err)
	}
	return until(ctx, func(ctx context.Context) error {
		node := &corev1.Node{}
		if err := c.Get(ctx, client.ObjectKey{Name: "node"}, node); err != nil {
			return err
		}
		ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			// Kept state calls the node ready before it is. Times come in whole seconds.
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && !c.LastHeartbeatTime.Time.Before(began.Truncate(time.Second))
		})
		if !ready {
			return errors.New("kubelet has not called the node ready")
		}
		if err := c.Get(ctx, client.ObjectKey{Namespace: "default", Name: "default"}, &corev1.ServiceAccount{}); err != nil {
			return err
		}
		return n.resolves(ctx)
	})
}

// resolves asks as a pod does: through the Service, and so through kube-proxy.
func (n *node) resolves(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(n.DNSService, "53"))
	}}
	_, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
	return err
}
