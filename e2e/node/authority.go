package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// authority issues the certificates of one start. Its key and that of the
// ServiceAccount tokens are all that has to outlive a start.
type authority struct {
	dir    string
	server string // where the API answers
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
}

func openAuthority(dir, server string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making folder: %w", err)
	}
	a := &authority{dir: dir, server: server}
	pem, _, err := keyutil.LoadOrGenerateKeyFile(a.file("ca.key"))
	if err != nil {
		return nil, fmt.Errorf("opening key of the authority: %w", err)
	}
	key, err := keyutil.ParsePrivateKeyPEM(pem)
	if err != nil {
		return nil, fmt.Errorf("parsing %s", a.file("ca.key")) // the parser's own error has seen the key
	}
	var ok bool
	if a.key, ok = key.(*ecdsa.PrivateKey); !ok {
		return nil, fmt.Errorf("parsing %s: it is no ECDSA key", a.file("ca.key"))
	}
	if a.cert, err = cert.NewSelfSignedCACert(cert.Config{CommonName: "berth cluster"}, a.key); err != nil {
		return nil, fmt.Errorf("making certificate of the authority: %w", err)
	}
	if _, _, err := keyutil.LoadOrGenerateKeyFile(a.tokenKey()); err != nil {
		return nil, fmt.Errorf("opening key of the tokens: %w", err)
	}
	return a, os.WriteFile(a.file("ca.crt"), a.certPEM(), 0o600)
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }
func (a *authority) tokenKey() string        { return a.file("service-account.key") }
func (a *authority) certPEM() []byte {
	certificate, err := cert.EncodeCertificates(a.cert)
	if err != nil {
		panic(err) // it writes to memory
	}
	return certificate
}

// serverCertificate writes a certificate and its key to NAME.pem.
func (a *authority) serverCertificate(name string, names cert.AltNames) error {
	certificate, key, err := a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    names.DNSNames,
		IPAddresses: names.IPs,
	})
	if err != nil {
		return fmt.Errorf("issuing certificate of %s: %w", name, err)
	}
	return os.WriteFile(a.file(name+".pem"), append(certificate, key...), 0o600)
}

func (a *authority) clientCertificate(user string, groups ...string) (certificate, key []byte, err error) {
	certificate, key, err = a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("issuing certificate of %s: %w", user, err)
	}
	return certificate, key, nil
}

// kubeconfig writes the access of a user.
func (a *authority) kubeconfig(file, user string, groups ...string) error {
	certificate, key, err := a.clientCertificate(user, groups...)
	if err != nil {
		return err
	}
	const name = "berth"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: a.server, CertificateAuthorityData: a.certPEM()}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: certificate, ClientKeyData: key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	// In one step: the supervisor takes the file's being there as a sign.
	if err := clientcmd.WriteToFile(*config, file+".new"); err != nil {
		return fmt.Errorf("writing access of %s: %w", user, err)
	}
	return os.Rename(file+".new", file)
}

func (a *authority) issue(template *x509.Certificate) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, err
	}
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().AddDate(1, 0, 0)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	issued, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	if certificate, err = cert.EncodeCertificates(issued); err != nil {
		return nil, nil, err
	}
	key, err = keyutil.MarshalPrivateKeyToPEM(private)
	return certificate, key, err
}

func ips(addresses ...string) []net.IP {
	var parsed []net.IP
	for _, address := range addresses {
		parsed = append(parsed, net.ParseIP(address))
	}
	return parsed
}
