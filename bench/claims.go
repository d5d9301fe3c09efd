package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/naming"
)

const mustRatio = 0.85

// measureClaims races berth against a bare loop on the same server, in turns:
// claims from the first apply to the last Secret, against the SQL that makes
// the same databases, owners and logins.
func measureClaims(ctx context.Context, b *bench) (_ row, err error) {
	ctx, w, err := newWorld(ctx, b)
	if err != nil {
		return row{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.makeClass(ctx, class, w.admin, dropAtOnce); err != nil {
		return row{}, err
	}
	if _, err := w.startController(ctx); err != nil {
		return row{}, err
	}
	if err := w.awaitClass(ctx); err != nil {
		return row{}, err
	}
	var berth, raw, ratios []float64
	for turn := range b.size.claimRuns {
		contest := []struct {
			name  string
			race  func(context.Context, int, int) (time.Duration, error)
			rates *[]float64
		}{{"berth", w.raceClaims, &berth}, {"raw", w.raceLoop, &raw}}
		if turn%2 == 1 {
			contest[0], contest[1] = contest[1], contest[0]
		}
		for _, c := range contest {
			if err := w.checkpoint(ctx); err != nil {
				return row{}, err
			}
			took, err := c.race(ctx, turn, b.size.claims)
			if err != nil {
				return row{}, fmt.Errorf("running %s: %w", c.name, err)
			}
			*c.rates = append(*c.rates, float64(b.size.claims)/took.Seconds())
			b.say("  turn %d of %d: %s %.1f databases/s", turn+1, b.size.claimRuns, c.name, (*c.rates)[turn])
		}
		ratios = append(ratios, berth[turn]/raw[turn])
	}
	return row{
		what:  fmt.Sprintf("claims: %d claims from first apply to last Secret", b.size.claims),
		berth: number(median(berth)) + "/s", raw: number(median(raw)) + "/s", ratio: number(median(ratios)),
		figures: ratios, must: fmt.Sprintf("ratio >= %.2f", mustRatio), reached: median(ratios) >= mustRatio,
	}, nil
}

func dropAtOnce(s *v1alpha1.DatabaseClassSpec) {
	s.Deletion.UndoWindow = &metav1.Duration{}
}

// checkpoint gives every run the same start: nothing left to write.
func (w *world) checkpoint(ctx context.Context) error {
	conn, err := w.superuser(ctx, w.admin.Database)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	if _, err := conn.Exec(ctx, "CHECKPOINT"); err != nil {
		return fmt.Errorf("writing a checkpoint: %w", err)
	}
	return nil
}

// superuser connects with a name of its own, so that the server's log tells
// berth's statements from these.
func (w *world) superuser(ctx context.Context, database string) (*pgx.Conn, error) {
	cfg, err := w.as(database, w.admin.User, w.admin.Password).ConnConfig()
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = "bench"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	return conn, nil
}

// closeConn says goodbye, and does not wait for long.
func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// raceClaims makes n claims, and takes the time until a watch has told the
// last of their Secrets. The claims are gone when it returns.
func (w *world) raceClaims(ctx context.Context, turn, n int) (time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	prefix := fmt.Sprintf("turn%d-", turn)
	var began time.Time
	start := func() {
		began = time.Now()
		go func() {
			err := w.makeClaims(ctx, n, func(i int) *v1alpha1.DatabaseClaim { return newClaim(fmt.Sprintf("%s%d", prefix, i)) })
			if err != nil {
				cancel(fmt.Errorf("applying claims: %w", err))
			}
		}()
	}
	published := map[string]bool{}
	err := w.watch(ctx, &corev1.SecretList{}, start, func(o client.Object) bool {
		if strings.HasPrefix(o.GetName(), prefix) {
			published[o.GetName()] = true
		}
		return len(published) == n
	}, client.MatchingLabels{naming.ManagedByLabel: naming.ManagedBy})
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	if err := w.awaitReady(ctx, n); err != nil {
		return 0, err
	}
	return took, w.removeClaims(ctx)
}
