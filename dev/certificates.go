package dev

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	leafLifetime      = 365 * 24 * time.Hour
	// A leaf is renewed this early, so that a control plane that stays up for
	// weeks does not outlive the certificate it started with.
	renewBefore = 90 * 24 * time.Hour
)

// authority issues the certificates of one control plane. Its folder is
// readable by its owner alone and its files outlive the process.
type authority struct {
	dir  string
	pair pair
}

// pair is a certificate and its private key. On disk both share one file, so
// that no crash leaves a certificate beside the key of another.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// openAuthority loads the authority in dir, or makes one. One that is near its
// end, or that cannot be parsed, is replaced: every leaf then follows, because
// leaf() refuses what the current authority did not sign.
func openAuthority(dir string, now time.Time) (*authority, error) {
	if err := privateFolder(dir); err != nil {
		return nil, err
	}
	a := &authority{dir: dir}
	file := filepath.Join(dir, "ca.pem")
	var err error
	a.pair, err = loadPair(file)
	if err == nil && now.Add(leafLifetime).Before(a.pair.cert.NotAfter) {
		return a, a.publish()
	}
	if err != nil && !replaceable(err) {
		return nil, fmt.Errorf("reading certificate authority: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "berth dev"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(authorityLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if a.pair, err = issue(template, nil); err != nil {
		return nil, fmt.Errorf("making certificate authority: %w", err)
	}
	if err := a.pair.save(file); err != nil {
		return nil, err
	}
	return a, a.publish()
}

// certFile holds the authority's certificate without its key: the API server
// copies the file it is given into a ConfigMap.
func (a *authority) certFile() string { return filepath.Join(a.dir, "ca.crt") }

func (a *authority) publish() error { return writePrivate(a.certFile(), a.certPEM()) }

func (a *authority) certPEM() []byte { return a.pair.certPEM() }

// leaf returns the certificate kept under name, issued anew when it is absent,
// near its end, or signed by an earlier authority.
func (a *authority) leaf(name string, template *x509.Certificate, now time.Time) (pair, error) {
	file := a.file(name)
	p, err := loadPair(file)
	if err != nil && !replaceable(err) {
		return pair{}, fmt.Errorf("reading certificate %s: %w", name, err)
	}
	if err == nil && now.Add(renewBefore).Before(p.cert.NotAfter) && p.cert.CheckSignatureFrom(a.pair.cert) == nil {
		return p, nil
	}
	if p, err = a.issueLeaf(template, now); err != nil {
		return pair{}, fmt.Errorf("issuing certificate %s: %w", name, err)
	}
	return p, p.save(file)
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name+".pem") }

func (a *authority) issueLeaf(template *x509.Certificate, now time.Time) (pair, error) {
	template.NotBefore = now.Add(-time.Hour)
	template.NotAfter = now.Add(leafLifetime)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	return issue(template, &a.pair)
}

// signingKey keeps a bare key, for service account tokens, and returns its file.
func (a *authority) signingKey(name string) (string, error) {
	file := filepath.Join(a.dir, name+".key")
	_, err := os.Stat(file)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("making key %s: %w", name, err)
	}
	encoded, err := pair{key: key}.keyPEM()
	if err != nil {
		return "", err
	}
	return file, writePrivate(file, encoded)
}

// clientTemplate describes a user as the API server reads one.
func clientTemplate(user string, groups []string) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func serverTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "kubernetes.default.svc"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
}

// issue signs template with parent, or with its own key when parent is nil.
func issue(template *x509.Certificate, parent *pair) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return pair{}, err
	}
	signer, signerKey := template, key
	if parent != nil {
		signer, signerKey = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, key.Public(), signerKey)
	if err != nil {
		return pair{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return pair{cert: cert, key: key}, err
}

var errUnusable = errors.New("unusable certificate file")

func replaceable(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errUnusable)
}

func loadPair(file string) (pair, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return pair{}, err
	}
	// The parser's own error stays out: it has seen the key.
	parsed, err := tls.X509KeyPair(data, data)
	if err != nil {
		return pair{}, fmt.Errorf("parsing %s: %w", file, errUnusable)
	}
	key, ok := parsed.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return pair{}, fmt.Errorf("parsing %s: %w", file, errUnusable)
	}
	return pair{cert: parsed.Leaf, key: key}, nil
}

func (p pair) save(file string) error {
	key, err := p.keyPEM()
	if err != nil {
		return err
	}
	return writePrivate(file, bytes.Join([][]byte{p.certPEM(), key}, nil))
}

func (p pair) certPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})
}

func (p pair) keyPEM() ([]byte, error) {
	// The API server reads a token key in this older form only.
	der, err := x509.MarshalECPrivateKey(p.key)
	if err != nil {
		return nil, fmt.Errorf("encoding private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// privateFolder makes dir, and takes it from others when it exists.
func privateFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making folder: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("protecting folder: %w", err)
	}
	return nil
}

// writePrivate replaces file in one step; its owner alone can read it.
func writePrivate(file string, data []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(file), ".new-*") // 0600 by contract
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	_, err = temporary.Write(data)
	if err = errors.Join(err, temporary.Close()); err == nil {
		err = os.Rename(temporary.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", file, err), os.Remove(temporary.Name()))
	}
	return nil
}
