package dev

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Config returns an administrator's access, without a client-side rate limit.
func (c *ControlPlane) Config() *rest.Config { return rest.CopyConfig(c.admin) }

// User returns the access of one user, who may do what RBAC grants to the name
// or the groups. A ServiceAccount is the user system:serviceaccount:NAMESPACE:NAME.
// It is valid for a year and cannot be withdrawn, except through RBAC.
func (c *ControlPlane) User(name string, groups ...string) (*rest.Config, error) {
	p, err := c.authority.issueLeaf(clientTemplate(name, groups), time.Now())
	if err != nil {
		return nil, fmt.Errorf("issuing certificate of user %s: %w", name, err)
	}
	config := c.Config()
	if config.KeyData, err = p.keyPEM(); err != nil {
		return nil, err
	}
	config.CertData = p.certPEM()
	return config, nil
}

// Kubeconfig returns an administrator's access as a kubectl configuration. It
// holds a private key: see WriteKubeconfig.
func (c *ControlPlane) Kubeconfig() ([]byte, error) {
	const name = "berth-dev"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: c.admin.Host, CertificateAuthorityData: c.admin.CAData}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: c.admin.CertData, ClientKeyData: c.admin.KeyData}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("encoding kubeconfig: %w", err)
	}
	return data, nil
}

// WriteKubeconfig replaces file with Kubeconfig in one step; its owner alone
// can read it.
func (c *ControlPlane) WriteKubeconfig(file string) error {
	data, err := c.Kubeconfig()
	if err != nil {
		return err
	}
	return writePrivate(file, data)
}

func (c *ControlPlane) config(p pair, port string) (*rest.Config, error) {
	key, err := p.keyPEM()
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            "https://" + net.JoinHostPort("127.0.0.1", port),
		TLSClientConfig: rest.TLSClientConfig{CAData: c.authority.certPEM(), CertData: p.certPEM(), KeyData: key},
		QPS:             -1, // the server's own priority and fairness suffices
	}, nil
}

// port returns the recorded port, so that a kubeconfig stays valid, or a fresh
// one when there is none or it is taken. Ports below 32768 are never given to
// outgoing connections.
func (c *ControlPlane) port() (string, error) {
	file := filepath.Join(c.options.Dir, "port")
	recorded, err := os.ReadFile(file)
	if err == nil && free(string(recorded)) {
		return string(recorded), nil
	}
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(12768))
		if free(port) {
			return port, writePrivate(file, []byte(port))
		}
	}
	return "", errors.New("finding a free port: 100 tries were all taken")
}

func free(port string) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	return err == nil && listener.Close() == nil
}
