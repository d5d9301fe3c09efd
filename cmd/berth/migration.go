package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/migration"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/postgres/replication"
	"github.com/berth-dev/berth/switchboard"
)

// addMigrations wires the kind Migration to mgr. Without a board, switches end
// the sessions of clients; without the folder, no migration gets past its schema.
func addMigrations(ctx context.Context, mgr ctrl.Manager, means backend.Means, board *switchboard.Board, postgresql string) error {
	worker := &migration.Worker{Means: means, Tools: dumpTools(postgresql)}
	if board != nil {
		worker.Proxies = callers{mgr.GetClient(), board}.of
	}
	if err := worker.SetUp(ctx, mgr, workers); err != nil {
		return fmt.Errorf("setting up migrations: %w", err)
	}
	return nil
}

// dumpTools finds the programs of a major version in folder.
func dumpTools(folder string) func(int) (replication.Tools, error) {
	return func(major int) (replication.Tools, error) {
		if folder == "" {
			return replication.Tools{}, errors.New("this controller has no PostgreSQL programs; start it with --postgresql")
		}
		bin := filepath.Join(folder, strconv.Itoa(major), "bin")
		tools := replication.Tools{Dump: filepath.Join(bin, "pg_dump"), Restore: filepath.Join(bin, "pg_restore")}
		for _, program := range []string{tools.Dump, tools.Restore} {
			if _, err := os.Stat(program); err != nil {
				return tools, fmt.Errorf("the controller's --postgresql has no %s of version %d", filepath.Base(program), major)
			}
		}
		return tools, nil
	}
}

// callers are the proxies that call at the switchboard.
type callers struct {
	api   client.Reader
	board *switchboard.Board
}

// holdBudget is for every proxy to try the target, while clients are served.
const holdBudget = 5 * time.Second

// of holds the proxies of a claim together with those of its role claims,
// which are on the same database.
func (c callers) of(claim types.NamespacedName) migration.Hold {
	return func(ctx context.Context, to postgres.Target) (migration.Held, error) {
		order, err := c.order(ctx, claim, to)
		if err != nil {
			return nil, err
		}
		held, err := c.board.Hold(ctx, order)
		if err != nil {
			return nil, err
		}
		return held, nil
	}
}

// order sends all of them to a server with the login that each has, and with
// the TLS that their Secrets ask for; the administrator's is nobody's business.
func (c callers) order(ctx context.Context, key types.NamespacedName, to postgres.Target) (switchboard.Order, error) {
	claim, class, roles := &v1alpha1.DatabaseClaim{}, &v1alpha1.DatabaseClass{}, &v1alpha1.RoleClaimList{}
	if err := c.api.Get(ctx, key, claim); err != nil {
		return switchboard.Order{}, fmt.Errorf("reading claim %s: %w", key, err)
	}
	if err := c.api.Get(ctx, client.ObjectKey{Name: claim.Spec.Class}, class); err != nil {
		return switchboard.Order{}, fmt.Errorf("reading class %s: %w", claim.Spec.Class, err)
	}
	if err := c.api.List(ctx, roles); err != nil {
		return switchboard.Order{}, fmt.Errorf("listing role claims: %w", err)
	}
	claims := []switchboard.Claim{{Kind: naming.ClaimKind, ObjectKey: key}}
	for i := range roles.Items {
		if role := &roles.Items[i]; claimOf(role) == key {
			claims = append(claims, switchboard.Claim{Kind: naming.RoleKind, ObjectKey: client.ObjectKeyFromObject(role)})
		}
	}
	to.User, to.Password, to.SSLMode = "", "", class.Spec.SSLMode
	targets := map[switchboard.Claim]postgres.Target{}
	for _, claim := range claims {
		targets[claim] = to
	}
	return switchboard.Order{Generation: c.board.Generation(claims...) + 1, Claims: claims, Targets: targets, Budget: holdBudget}, nil
}
