package canopy

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
	"sync"
	"time"
)

// A service knows a device by its public key, so a certificate may be short-lived.
const (
	deviceName = "device.local"
	validFor   = 6 * 24 * time.Hour
	renewAfter = 5 * 24 * time.Hour
)

// device makes certificates of one key, each when the last is old.
type device struct {
	key *ecdsa.PrivateKey
	now func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	made    time.Time
}

func newDevice(text []byte, now func() time.Time) (*device, error) {
	block, _ := pem.Decode(bytes.TrimSpace(text))
	if block == nil {
		return nil, errors.New("reading the device key: it is not PEM")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("reading the device key: it is neither an EC key nor PKCS #8")
		}
		var ok bool
		if key, ok = parsed.(*ecdsa.PrivateKey); !ok {
			return nil, errors.New("reading the device key: it is not an EC key")
		}
	}
	if key.Curve != elliptic.P256() {
		return nil, errors.New("reading the device key: its curve is not P-256")
	}
	return &device{key: key, now: now}, nil
}

func (d *device) certificate() (*tls.Certificate, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	if d.current != nil && now.Sub(d.made) < renewAfter && !now.Before(d.made) {
		return d.current, nil
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: deviceName}, DNSNames: []string{deviceName},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(-time.Minute).Add(validFor),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &d.key.PublicKey, d.key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	d.current, d.made = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: d.key}, now
	return d.current, nil
}
