package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// What a controller may take.
const (
	mustBytes         = 60e6
	mustBytesPerClaim = 12e3
)

// verifyTimeout ends a measurement that would show nothing good any more.
const verifyTimeout = 10 * time.Minute

// measureScale has one controller make many claims, and a fresh one verify all
// of them.
func measureScale(ctx context.Context, b *bench) (_ row, err error) {
	ctx, w, err := newWorld(ctx, b)
	if err != nil {
		return row{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.populate(ctx, b.size.scaleClaims); err != nil {
		return row{}, err
	}
	fresh, err := w.startController(ctx)
	if err != nil {
		return row{}, err
	}
	took, err := fresh.verify(ctx, b.size.scaleClaims)
	if err != nil {
		return row{}, err
	}
	now, peak, err := memoryOf(fresh.process.Pid())
	if err != nil {
		return row{}, err
	}
	writes, err := fresh.quiet(ctx)
	if err != nil {
		return row{}, err
	}
	end, err := fresh.metrics(ctx)
	if err != nil {
		return row{}, err
	}
	allowed := mustBytes + mustBytesPerClaim*float64(b.size.scaleClaims)
	b.say("  verified in %s with %s reads and %s writes; %s MB, at its peak %s MB", took.Round(time.Millisecond),
		number(end.reads()), number(writes), number(now/1e6), number(peak/1e6))
	return row{
		what: fmt.Sprintf("scale: cold start with %d claims until all are verified", b.size.scaleClaims),
		berth: fmt.Sprintf("%s s; %s writes, %s reads; %s MB, peak %s MB",
			number(took.Seconds()), number(writes), number(end.reads()), number(now/1e6), number(peak/1e6)),
		figures: []float64{peak / 1e6}, must: fmt.Sprintf("0 writes; peak <= %s MB", number(allowed/1e6)),
		reached: writes == 0 && peak <= allowed,
	}, nil
}

// sources is over how many databases the claims are spread: few enough for the
// server's connections, and enough that claims seldom change one at once.
const sources = 10

// populate makes n claims, each with a role of its own on a database of a
// server that somebody runs, and stops the controller that made them. The
// databases have no schema, in which every role would be granted what every
// other one makes: that grows with the square of the claims.
func (w *world) populate(ctx context.Context, n int) error {
	err := w.makeClass(ctx, class, w.admin, func(s *v1alpha1.DatabaseClassSpec) { s.Allow.ExistingSource = true })
	if err != nil {
		return err
	}
	for i := range sources {
		if err := w.makeSource(ctx, source(i)); err != nil {
			return err
		}
	}
	first, err := w.startController(ctx)
	if err != nil {
		return err
	}
	err = w.makeClaims(ctx, n, func(i int) *v1alpha1.DatabaseClaim {
		c := newClaim(fmt.Sprintf("many-%d", i))
		c.Spec.UserName = fmt.Sprintf("tenant_%d", i)
		c.Spec.UseExistingSource = ptr.To(true)
		c.Spec.SourceDataFrom = &v1alpha1.SourceDataFrom{
			Type: "database", Database: &v1alpha1.SourceDatabase{SecretRef: &v1alpha1.SecretReference{Name: source(i)}},
		}
		return c
	})
	if err != nil {
		return fmt.Errorf("applying claims: %w", err)
	}
	if err := w.awaitReady(ctx, n); err != nil {
		return err
	}
	if _, err := first.quiet(ctx); err != nil {
		return err
	}
	return first.stop()
}

func source(i int) string { return fmt.Sprintf("source%d", i%sources) }

// makeSource makes an empty database, and the Secret that claims reach it by.
func (w *world) makeSource(ctx context.Context, name string) error {
	conn, err := w.superuser(ctx, w.admin.Database)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		return fmt.Errorf("making database %s: %w", name, err)
	}
	inside, err := w.superuser(ctx, name)
	if err != nil {
		return err
	}
	defer closeConn(inside)
	if _, err := inside.Exec(ctx, "DROP SCHEMA public"); err != nil {
		return fmt.Errorf("emptying database %s: %w", name, err)
	}
	secret := &corev1.Secret{StringData: map[string]string{"uri_dsn.txt": w.as(name, w.admin.User, w.admin.Password).URI()}}
	secret.Namespace, secret.Name = namespace, name
	if err := w.client.Create(ctx, secret); err != nil {
		return fmt.Errorf("making Secret %s: %w", name, err)
	}
	return nil
}

// verify returns, with the time since the controller's start, once every claim
// went through all its steps: as many passes came to the last step as there are
// claims, every other pass failed and was tried again, and no claim waits.
func (c *controller) verify(ctx context.Context, n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	err := until(ctx, func() (bool, error) {
		m, err := c.metrics(ctx)
		if err != nil {
			return false, err
		}
		began, ended, failed := m.steps(v1alpha1.Admitted), m.steps(v1alpha1.NoStaleLogin), m.failures()
		return m.idle() && ended >= float64(n) && began == ended+failed, nil
	})
	return time.Since(c.began), err
}
