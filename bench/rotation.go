package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/credential"
)

const (
	rotateEvery = 3 * time.Second
	// propagation is what the class promises consumers; theirs is at most a
	// second, so that half a second is left for the watch and the login.
	propagation = 1500 * time.Millisecond
)

// measureRotation counts failed logins of impatient clients, first while berth
// rotates, then while one user's password is simply changed as often.
func measureRotation(ctx context.Context, b *bench) (_ row, err error) {
	ctx, w, err := newWorld(ctx, b)
	if err != nil {
		return row{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	ours, versions, err := w.rotateByBerth(ctx, b.size.rotation)
	if err != nil {
		return row{}, err
	}
	b.say("  berth: %d of %d logins failed over %d rotations", ours.failed, ours.logins, versions)
	if ours.first != nil {
		b.say("  such as: %v", ours.first)
	}
	theirs, changes, err := w.rotateByHand(ctx, b.size.rotation)
	if err != nil {
		return row{}, err
	}
	b.say("  one user: %d of %d logins failed over %d changes", theirs.failed, theirs.logins, changes)
	return row{
		what:    fmt.Sprintf("rotation: failed logins of %d clients over %s", clients, b.size.rotation),
		berth:   fmt.Sprintf("%d of %d (%d rotations)", ours.failed, ours.logins, versions),
		raw:     fmt.Sprintf("%d of %d (%d changes)", theirs.failed, theirs.logins, changes),
		figures: []float64{float64(ours.failed)}, must: "0 failed",
		reached: ours.failed == 0 && ours.logins > 0 && versions >= int64(b.size.rotation/rotateEvery/2),
	}, nil
}

// rotateByBerth has clients use a claim whose class rotates for d.
func (w *world) rotateByBerth(ctx context.Context, d time.Duration) (tally, int64, error) {
	err := w.makeClass(ctx, class, w.admin, func(s *v1alpha1.DatabaseClassSpec) {
		s.Rotation = v1alpha1.RotationPolicy{
			Floor: metav1.Duration{Duration: time.Second}, Period: metav1.Duration{Duration: rotateEvery},
			Propagation: ptr.To(metav1.Duration{Duration: propagation}),
		}
	})
	if err != nil {
		return tally{}, 0, err
	}
	c, err := w.startController(ctx)
	if err != nil {
		return tally{}, 0, err
	}
	claim := newClaim("rotated")
	if err := w.client.Create(ctx, claim); err != nil {
		return tally{}, 0, fmt.Errorf("applying the claim: %w", err)
	}
	if err := w.awaitReady(ctx, 1); err != nil {
		return tally{}, 0, err
	}
	before, err := w.version(ctx, claim)
	if err != nil {
		return tally{}, 0, err
	}
	counted, err := w.reconnect(ctx, claim.Name, d)
	if err != nil {
		return tally{}, 0, err
	}
	after, err := w.version(ctx, claim)
	return counted, after - before, errors.Join(err, c.stop())
}

func (w *world) version(ctx context.Context, c *v1alpha1.DatabaseClaim) (int64, error) {
	if err := w.client.Get(ctx, client.ObjectKeyFromObject(c), c); err != nil {
		return 0, fmt.Errorf("reading claim: %w", err)
	}
	return c.Status.Credential.Version, nil
}

// rotateByHand has clients use one login whose password is changed, on the
// server and then at once in the Secret, as often as berth rotates.
func (w *world) rotateByHand(ctx context.Context, d time.Duration) (tally, int, error) {
	conn, err := w.superuser(ctx, w.admin.Database)
	if err != nil {
		return tally{}, 0, err
	}
	defer closeConn(conn)
	const user = "single_user"
	if _, err := conn.Exec(ctx, "CREATE ROLE "+user+" LOGIN"); err != nil {
		return tally{}, 0, fmt.Errorf("making a user: %w", err)
	}
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = namespace, "single-user"
	if err := w.client.Create(ctx, secret); err != nil {
		return tally{}, 0, fmt.Errorf("making a Secret: %w", err)
	}
	change := func() error { return w.changePassword(ctx, conn, user, secret) }
	if err := change(); err != nil {
		return tally{}, 0, err
	}
	changes, stop, stopped := 0, make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(rotateEvery)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			case <-tick.C:
				if err := change(); err != nil {
					stopped <- err
					return
				}
				changes++
			}
		}
	}()
	counted, err := w.reconnect(ctx, secret.Name, d)
	close(stop)
	return counted, changes, errors.Join(err, <-stopped)
}

// changePassword does what berth's rotation would without a second login.
func (w *world) changePassword(ctx context.Context, conn *pgx.Conn, user string, secret *corev1.Secret) error {
	password := credential.NewPassword(v1alpha1.PasswordPolicy{Length: 32})
	sql := "ALTER ROLE " + user + " PASSWORD '" + credential.Verifier(password) + "'" // base64 and $ alone
	if _, err := conn.Exec(ctx, sql); err != nil {
		return errors.New("changing a password: the server refused")
	}
	secret.Data = map[string][]byte{
		credential.KeyDatabase: []byte(w.admin.Database), credential.KeyUsername: []byte(user), credential.KeyPassword: []byte(password),
	}
	if err := w.client.Update(ctx, secret); err != nil {
		return fmt.Errorf("writing a Secret: %w", err)
	}
	return nil
}
