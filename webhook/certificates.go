package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Certificates are an authority of our own and the certificate it signed. They
// live in a Secret that all replicas share: each renews what is due, and of two
// that do so at once the API server lets one through.
type Certificates struct {
	API       client.Client
	Secret    client.ObjectKey
	Names     []string // DNS names and addresses that clients use
	Lifetimes Lifetimes
	Log       *slog.Logger
	// Publish tells clients whom to trust. It is called before a certificate of
	// a new authority is served.
	Publish func(ctx context.Context, bundle []byte) error

	known   chain // what the Secret held last
	serving atomic.Pointer[tls.Certificate]
}

// Refresh renews what is due, publishes, and serves. It is called by one
// goroutine. After an error the certificate of before goes on being served.
func (c *Certificates) Refresh(ctx context.Context) error {
	current, err := c.agree(ctx)
	if err != nil {
		return err
	}
	if c.serving.Load() == nil {
		c.serve(current)
	}
	if err := c.Publish(ctx, current.bundle()); err != nil {
		return err
	}
	c.serve(current)
	return nil
}

func (c *Certificates) serve(current chain) {
	if old := c.serving.Load(); old == nil || !old.Leaf.Equal(current.leaf.cert) {
		c.serving.Store(&tls.Certificate{Certificate: [][]byte{current.leaf.cert.Raw}, PrivateKey: current.leaf.key, Leaf: current.leaf.cert})
		c.Log.Info("serving a certificate", "until", current.leaf.cert.NotAfter.UTC().Format(time.RFC3339))
	}
}

// tries bounds how often a lost race is looked at again at once.
const tries = 5

// agree returns the chain that the Secret holds once nothing in it is due.
func (c *Certificates) agree(ctx context.Context) (chain, error) {
	var err error
	for range tries {
		var current chain
		if current, err = c.renew(ctx); err == nil {
			c.known = current
			return current, nil
		}
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) {
			break
		}
	}
	return chain{}, fmt.Errorf("keeping certificates in Secret %s: %w", c.Secret, err)
}

func (c *Certificates) renew(ctx context.Context) (chain, error) {
	secret := &corev1.Secret{}
	err := c.API.Get(ctx, c.Secret, secret)
	absent := apierrors.IsNotFound(err)
	if err != nil && !absent {
		return chain{}, err
	}
	// A Secret that is lost or spoilt is written again from memory: API servers
	// trust what is served now.
	have, broken := parseChain(secret.Data)
	if broken != nil {
		have = c.known
	}
	current, changed, err := have.next(c.Names, time.Now(), c.Lifetimes.orDefaults())
	if err != nil || !changed && broken == nil {
		return current, err
	}
	if secret.Data, err = current.data(); err != nil {
		return chain{}, err
	}
	if absent {
		secret.Namespace, secret.Name, secret.Type = c.Secret.Namespace, c.Secret.Name, corev1.SecretTypeOpaque
		return current, c.API.Create(ctx, secret)
	}
	return current, c.API.Update(ctx, secret)
}

// Get serves the newest certificate; it has the signature of
// tls.Config.GetCertificate.
func (c *Certificates) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if current := c.serving.Load(); current != nil {
		return current, nil
	}
	return nil, errors.New("there is no certificate yet")
}
