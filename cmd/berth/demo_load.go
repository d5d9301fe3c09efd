package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/postgres"
)

func (t *tour) secret(ctx context.Context) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	err := t.api.Get(ctx, client.ObjectKeyFromObject(t.claim), secret)
	return secret, err
}

// runPsql runs one command as the tenant; the credential travels in the environment.
func (t *tour) runPsql(ctx context.Context, sql string) (string, error) {
	secret, err := t.secret(ctx)
	if err != nil {
		return "", fmt.Errorf("reading the Secret: %w", err)
	}
	psql := exec.CommandContext(ctx, filepath.Join(t.bin, "pg", "15", "bin", "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql)
	psql.Env = psqlEnvironment(os.Environ(), secret.Data)
	out, err := psql.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, out)
	}
	return string(out), nil
}

func (t *tour) connect(ctx context.Context) error {
	out, err := t.runPsql(ctx, `CREATE TABLE bottle (message text); INSERT INTO bottle VALUES ('still here');
		SELECT session_user AS login, current_user AS owner, current_database() AS database`)
	t.say("%s", out)
	return err
}

const (
	clients   = 12
	rotations = 4
)

// rotate changes the credential while clients connect anew every 5 ms, each
// seeing a new Secret with its own delay of up to a second.
func (t *tour) rotate(ctx context.Context) error {
	loading, stop := context.WithCancel(ctx)
	defer stop()
	var logins, failures atomic.Int64
	var group sync.WaitGroup
	for i := range clients {
		lag := time.Duration(i) * time.Second / (clients - 1)
		group.Go(func() { t.reconnect(loading, lag, &logins, &failures) })
	}
	for range rotations {
		if err := t.rotateOnce(ctx, func(string) error { return nil }); err != nil {
			return err
		}
	}
	stop()
	group.Wait()
	t.say("   %d rotations, %d logins, %d failed", rotations, logins.Load(), failures.Load())
	if failures.Load() > 0 || logins.Load() == 0 {
		return fmt.Errorf("%d of %d logins failed", failures.Load(), logins.Load())
	}
	return nil
}

// rotateOnce returns when the previous login is closed. It calls published with
// the new one as soon as the Secret tells it.
func (t *tour) rotateOnce(ctx context.Context, published func(login string) error) error {
	before, patch := t.claim.Status.Credential.Version, client.MergeFrom(t.claim.DeepCopy())
	t.claim.Spec.Rotation.MinVersion = before + 1
	if err := t.api.Patch(ctx, t.claim, patch); err != nil {
		return fmt.Errorf("asking for a rotation: %w", err)
	}
	began := time.Now()
	if err := t.await(ctx, func() bool { return t.claim.Status.Credential.Version > before }); err != nil {
		return err
	}
	told := time.Since(began)
	if err := published(t.claim.Status.Credential.Login); err != nil {
		return err
	}
	if err := t.await(ctx, func() bool { return t.claim.Status.Credential.Previous == "" }); err != nil {
		return err
	}
	t.say("   version %d with %s: published after %d ms, the previous login closed after %.1f s", t.claim.Status.Credential.Version,
		t.claim.Status.Credential.Login, told.Milliseconds(), time.Since(began).Seconds())
	return nil
}

// reconnect logs in by what the Secret said lag ago, again and again.
func (t *tour) reconnect(ctx context.Context, lag time.Duration, logins, failures *atomic.Int64) {
	type sight struct {
		at  time.Time
		uri string
	}
	var sights []sight
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	var looked time.Time
	for ctx.Err() == nil {
		if now := time.Now(); now.Sub(looked) > 100*time.Millisecond {
			looked = now
			if secret, err := t.secret(ctx); err == nil {
				sights = append(sights, sight{now, string(secret.Data[credential.KeyURI])})
			}
		}
		for len(sights) > 1 && time.Since(sights[1].at) >= lag {
			sights = sights[1:]
		}
		if len(sights) > 0 {
			switch err := loginOnce(ctx, sights[0].uri); {
			case ctx.Err() != nil:
			case err != nil:
				failures.Add(1)
			default:
				logins.Add(1)
			}
		}
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
}

func loginOnce(ctx context.Context, uri string) error {
	target, err := postgres.ParseDSN(uri)
	if err != nil {
		return err
	}
	config, err := target.ConnConfig()
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, "SELECT 1")
	return err
}

func (t *tour) undo(ctx context.Context) error {
	secret, err := t.secret(ctx)
	if err != nil {
		return fmt.Errorf("reading the Secret: %w", err)
	}
	if err := t.api.Delete(ctx, t.claim); err != nil {
		return fmt.Errorf("deleting the claim: %w", err)
	}
	if err := t.await(ctx, func() bool { return false }); !apierrors.IsNotFound(err) {
		return fmt.Errorf("the claim stays: %w", err)
	}
	if loginOnce(ctx, string(secret.Data[credential.KeyURI])) == nil {
		return fmt.Errorf("a login of the deleted claim still works")
	}
	t.say("   deleted: the claim and its Secret are gone, its logins are dropped, the database waits")
	if err := t.apply(ctx); err != nil {
		return err
	}
	out, err := t.runPsql(ctx, "SELECT message FROM bottle")
	t.say("   applied again:\n%s", out)
	return err
}
