package webhook

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
	"math/big"
	"net"
	"slices"
	"time"
)

// Lifetimes of what berth issues. Each is renewed when two thirds have passed.
type Lifetimes struct {
	Authority time.Duration // zero is a year
	Leaf      time.Duration // zero is 90 days
	Settle    time.Duration // from the publication of an authority to its first leaf; zero is 5 minutes
}

func (l Lifetimes) orDefaults() Lifetimes {
	const day = 24 * time.Hour
	if l == (Lifetimes{}) {
		return Lifetimes{Authority: 365 * day, Leaf: 90 * day, Settle: 5 * time.Minute}
	}
	return l
}

// backdate is how far clocks may differ.
const backdate = time.Hour

// pair is a certificate with its key; the key of an earlier authority may be gone.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// chain is all that replicas share: the authorities that clients are to trust,
// newest first, and the certificate that is served.
type chain struct {
	authorities []pair
	leaf        pair
}

// next is the chain that should be in use now, and whether it differs. A new
// authority is only trusted at first: it signs when every API server has had
// time to learn of it, so that at any moment the certificate served is trusted
// by the bundle before the last one too.
func (c chain) next(names []string, now time.Time, l Lifetimes) (chain, bool, error) {
	usable := slices.DeleteFunc(slices.Clone(c.authorities), func(a pair) bool { return !now.Before(a.cert.NotAfter) })
	changed := len(usable) != len(c.authorities)
	if len(usable) == 0 || usable[0].key == nil || due(usable[0].cert, now) {
		authority, err := newAuthority(now, l.Authority)
		if err != nil {
			return chain{}, false, fmt.Errorf("making certificate authority: %w", err)
		}
		usable, changed = slices.Insert(usable, 0, authority), true
	}
	c.authorities = usable
	if c.leaf.cert != nil && !due(c.leaf.cert, now) && covers(c.leaf.cert, names) && c.signs(c.leaf.cert) {
		return c, changed, nil
	}
	leaf, err := newLeaf(names, c.signer(now, l.Settle), now, l.Leaf)
	if err != nil {
		return chain{}, false, fmt.Errorf("issuing certificate: %w", err)
	}
	c.leaf = leaf
	return c, true, nil
}

// signer is the newest authority that has settled, else the oldest there is.
func (c chain) signer(now time.Time, settle time.Duration) pair {
	signer := c.authorities[0]
	for _, a := range c.authorities {
		if a.key == nil {
			break
		}
		signer = a
		if !now.Before(issued(a.cert).Add(settle)) {
			break
		}
	}
	return signer
}

func (c chain) signs(leaf *x509.Certificate) bool {
	return slices.ContainsFunc(c.authorities, func(a pair) bool { return leaf.CheckSignatureFrom(a.cert) == nil })
}

func issued(cert *x509.Certificate) time.Time { return cert.NotBefore.Add(backdate) }

// due tells that two thirds of the certificate's life have passed.
func due(cert *x509.Certificate, now time.Time) bool {
	from := issued(cert)
	return now.After(from.Add(cert.NotAfter.Sub(from) * 2 / 3))
}

func covers(cert *x509.Certificate, names []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return cert.VerifyHostname(name) != nil })
}

func newAuthority(now time.Time, life time.Duration) (pair, error) {
	return issue(&x509.Certificate{
		Subject:   pkix.Name{CommonName: "berth webhook authority"},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, pair{})
}

func newLeaf(names []string, signer pair, now time.Time, life time.Duration) (pair, error) {
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "berth webhook"},
		NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(life), signer.cert.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return issue(template, signer)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// issue signs template with signer, or with its own key when there is none.
func issue(template *x509.Certificate, signer pair) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return pair{}, err
	}
	if signer.cert == nil {
		signer = pair{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key)
	if err != nil {
		return pair{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return pair{cert, key}, err
}

// Keys of the Secret: those of Kubernetes for what they hold, and the
// authorities' own keys in the order of their certificates.
const (
	keyAuthorities   = "ca.crt"
	keyAuthorityKeys = "ca.key"
	keyLeaf          = "tls.crt"
	keyLeafKey       = "tls.key"
)

// bundle is what clients are to trust, as PEM.
func (c chain) bundle() []byte {
	var out bytes.Buffer
	for _, a := range c.authorities {
		out.Write(encode("CERTIFICATE", a.cert.Raw))
	}
	return out.Bytes()
}

func (c chain) data() (map[string][]byte, error) {
	var keys bytes.Buffer
	for _, a := range c.authorities {
		if a.key == nil {
			break
		}
		der, err := x509.MarshalPKCS8PrivateKey(a.key)
		if err != nil {
			return nil, fmt.Errorf("encoding key: %w", err)
		}
		keys.Write(encode("PRIVATE KEY", der))
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.leaf.key)
	if err != nil {
		return nil, fmt.Errorf("encoding key: %w", err)
	}
	return map[string][]byte{
		keyAuthorities: c.bundle(), keyAuthorityKeys: keys.Bytes(),
		keyLeaf: encode("CERTIFICATE", c.leaf.cert.Raw), keyLeafKey: encode("PRIVATE KEY", der),
	}, nil
}

// parseChain reads what data wrote. Its error holds none of it.
func parseChain(data map[string][]byte) (chain, error) {
	var c chain
	keys := data[keyAuthorityKeys]
	for rest := data[keyAuthorities]; len(bytes.TrimSpace(rest)) > 0; {
		var block, key *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return chain{}, errors.New("parsing " + keyAuthorities)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return chain{}, errors.New("parsing " + keyAuthorities)
		}
		a := pair{cert: cert}
		if key, keys = pem.Decode(keys); key != nil {
			if a.key, err = parseKey(key.Bytes, cert); err != nil {
				return chain{}, err
			}
		}
		c.authorities = append(c.authorities, a)
	}
	leaf, err := tls.X509KeyPair(data[keyLeaf], data[keyLeafKey])
	key, ok := leaf.PrivateKey.(*ecdsa.PrivateKey)
	if err != nil || !ok || len(c.authorities) == 0 {
		return chain{}, errors.New("parsing " + keyLeaf)
	}
	c.leaf = pair{leaf.Leaf, key}
	return c, nil
}

func parseKey(der []byte, cert *x509.Certificate) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("parsing " + keyAuthorityKeys)
	}
	return key, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
