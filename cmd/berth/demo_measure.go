package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/backend/local"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
)

// measured is how many databases each side of the comparison makes.
const measured = 40

// measure makes databases by claims, and then as many by the same SQL alone.
func (t *tour) measure(ctx context.Context) error {
	claims, err := t.byClaims(ctx)
	if err != nil {
		return err
	}
	bare, err := t.bySQL(ctx)
	if err != nil {
		return err
	}
	t.say("   %d databases, each with owner, login and test login:", measured)
	t.say("     by claims, from the first apply to the last Ready  %6.2f s  %5.1f a second", claims.Seconds(), measured/claims.Seconds())
	t.say("     by the same SQL alone, %d at once                   %6.2f s  %5.1f a second", serverConcurrency, bare.Seconds(), measured/bare.Seconds())
	t.say("     ratio of the rates                                 %6.2f", bare.Seconds()/claims.Seconds())
	return nil
}

func (t *tour) byClaims(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	for i := range measured {
		c := &v1alpha1.DatabaseClaim{Spec: v1alpha1.DatabaseClaimSpec{Class: t.claim.Spec.Class}}
		c.Namespace, c.Name = t.claim.Namespace, fmt.Sprintf("measured-%d", i)
		if err := t.api.Create(ctx, c); err != nil {
			return 0, fmt.Errorf("making a claim: %w", err)
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		list := &v1alpha1.DatabaseClaimList{}
		if err := t.api.List(ctx, list, client.InNamespace(t.claim.Namespace)); err != nil {
			return 0, fmt.Errorf("listing claims: %w", err)
		}
		ready := 0
		for i := range list.Items {
			if isReady(&list.Items[i]) {
				ready++
			}
		}
		if ready == len(list.Items) {
			return time.Since(began), nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
}

// bySQL runs what the claims ran, without Kubernetes, at the same concurrency.
func (t *tour) bySQL(ctx context.Context) (time.Duration, error) {
	found, err := local.Looker{Dir: filepath.Join(t.data, "servers")}.Observe(ctx, backend.Server{ID: t.claim.Status.Server.ID})
	if err != nil {
		return 0, fmt.Errorf("finding the server: %w", err)
	}
	servers := newServers()
	defer servers.Close()
	server := servers.Get(found.Admin)
	facts, err := server.Facts(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the server: %w", err)
	}
	numbers, failures := make(chan int), make(chan error, measured)
	var group sync.WaitGroup
	began := time.Now()
	for range serverConcurrency {
		group.Go(func() {
			for i := range numbers {
				if err := makeBare(ctx, server, facts, fmt.Sprintf("bare_%d", i)); err != nil {
					failures <- err
				}
			}
		})
	}
	for i := range measured {
		numbers <- i
	}
	close(numbers)
	group.Wait()
	took := time.Since(began)
	select {
	case err := <-failures:
		return 0, fmt.Errorf("running the SQL alone: %w", err)
	default:
		return took, nil
	}
}

func makeBare(ctx context.Context, server *postgres.Server, facts postgres.Facts, name string) error {
	want := postgres.Database{Name: name, Owner: name, Marker: postgres.Marker{Cluster: "demo", Claim: "demo/" + name, Kind: postgres.DatabaseClaim}}
	plan, err := postgres.DecideDatabase(want, postgres.DatabaseState{}, facts)
	if err != nil {
		return err
	}
	login, password := naming.Login(name, 1), credential.NewPassword(v1alpha1.PasswordPolicy{})
	plan = append(plan, postgres.DecideLogin(postgres.Login{Name: login, Owner: name, Session: name, Verifier: credential.Verifier(password)},
		postgres.LoginState{Name: login}, facts)...)
	return persist(func() error {
		if err := server.Apply(ctx, plan); err != nil {
			return err
		}
		return server.TestLogin(ctx, name, login, password, name)
	})
}

// persist repeats what a busy machine may refuse for a moment, as berth's
// controllers do.
func persist(work func() error) (err error) {
	for range 5 {
		if err = work(); err == nil || postgres.Explain(err).Permanent {
			return err
		}
	}
	return err
}
