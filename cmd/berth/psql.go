package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/naming"
)

// PsqlCmd opens psql on a claim's database.
type PsqlCmd struct {
	Name string   `arg:"" help:"Claim." complete:"claims"`
	Role bool     `help:"The name is a RoleClaim's."`
	Args []string `arg:"" optional:"" help:"Arguments of psql, after --."`
}

// Help shows uses.
func (PsqlCmd) Help() string {
	return "It logs in as applications do, with what the claim's Secret tells. The password is handed over in the environment, never as an argument.\n\n" +
		"  berth psql orders\n  berth psql orders -- -c 'select now()'\n  berth psql --role orders-reader"
}

// Run replaces this program with psql; it returns only when that cannot be.
func (c *PsqlCmd) Run(ctx context.Context, g *Globals) error {
	d, err := g.desk()
	if err != nil {
		return err
	}
	secret, err := c.secret(ctx, d)
	if err != nil {
		return explained(interrupted(ctx, err))
	}
	path, err := exec.LookPath("psql")
	if err != nil {
		return errors.New("psql is not installed; install it with apt-get install postgresql-client, dnf install postgresql or brew install libpq")
	}
	if err := syscall.Exec(path, append([]string{"psql"}, c.Args...), psqlEnvironment(os.Environ(), secret.Data)); err != nil {
		return fmt.Errorf("starting %s: %w", path, err)
	}
	return nil
}

// secret reads the Secret that was written for the claim, and for no other.
func (c *PsqlCmd) secret(ctx context.Context, d *desk) (*corev1.Secret, error) {
	t, err := d.tenant(ctx, c.Name, c.Role)
	if err != nil {
		return nil, err
	}
	key := client.ObjectKey{Namespace: t.object.GetNamespace(), Name: t.secret}
	secret := &corev1.Secret{}
	err = d.api.Get(ctx, key, secret)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("reading Secret %s: %w", key, err)
	}
	written := err == nil && secret.Labels[naming.KindLabel] == t.label && secret.Labels[naming.OwnerLabel] == t.object.GetName()
	if !written {
		return nil, fmt.Errorf("%s has not published Secret %s yet (%s); %s", t, key.Name, summary(t.object), advice(t.object))
	}
	return secret, nil
}

// misleading are variables that would send the password elsewhere or put
// another in its place.
var misleading = []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSSLMODE"}

// psqlEnvironment is environ with the connection of a Secret.
func psqlEnvironment(environ []string, data map[string][]byte) []string {
	kept := slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(misleading, name)
	})
	return append(kept,
		"PGHOST="+string(data[credential.KeyHost]),
		"PGPORT="+string(data[credential.KeyPort]),
		"PGDATABASE="+string(data[credential.KeyDatabase]),
		"PGUSER="+string(data[credential.KeyUsername]),
		"PGPASSWORD="+string(data[credential.KeyPassword]),
		"PGSSLMODE="+string(data[credential.KeySSLMode]),
	)
}
