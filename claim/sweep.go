package claim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
)

// Sweeper drops what deleted claims left, once their undo window has passed.
// It looks at markers on the servers, one query a server and interval, and asks
// the API itself, never a cache, whether the claim is really gone.
type Sweeper struct {
	Worker   *Worker
	Interval time.Duration
	Log      *slog.Logger
}

// NeedLeaderElection keeps the sweeper to one process.
func (s *Sweeper) NeedLeaderElection() bool { return true }

// Start sweeps until ctx ends.
func (s *Sweeper) Start(ctx context.Context) error {
	tick := time.NewTicker(s.Interval)
	defer tick.Stop()
	for {
		s.Sweep(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Sweep looks at every server of every class once. What fails is logged and
// tried again by the next sweep.
func (s *Sweeper) Sweep(ctx context.Context) {
	classes := &v1alpha1.DatabaseClassList{}
	if err := s.Worker.Client.List(ctx, classes); err != nil {
		s.Log.Error("listing classes", "error", err)
		return
	}
	for i := range classes.Items {
		class := &classes.Items[i]
		servers, err := s.servers(ctx, class)
		if err != nil {
			s.Log.Warn("listing servers", "class", class.Name, "error", err)
		}
		for _, id := range servers {
			if err := s.sweepServer(ctx, class, id); err != nil && ctx.Err() == nil {
				s.Log.Warn("sweeping", "class", class.Name, "server", id, "reason", postgres.Explain(err).Reason)
			}
		}
	}
}

// servers are the ids of a class's servers.
func (s *Sweeper) servers(ctx context.Context, class *v1alpha1.DatabaseClass) ([]string, error) {
	b := s.Worker.Finder.Backends[class.Spec.Backend]
	if b == nil {
		return nil, nil
	}
	shared := naming.SharedServer(class.Name)
	if !class.Spec.Dedicated {
		return []string{shared}, nil
	}
	all, err := b.List(ctx)
	var dedicated []string
	for _, id := range all {
		if !strings.HasPrefix(id, "class-") {
			dedicated = append(dedicated, id)
		}
	}
	return dedicated, err
}

func (s *Sweeper) sweepServer(ctx context.Context, class *v1alpha1.DatabaseClass, id string) error {
	found, err := s.Worker.Finder.Backends[class.Spec.Backend].Observe(ctx, backend.Server{ID: id, Class: class})
	if err != nil || !found.Usable {
		return err
	}
	server := s.Worker.Servers.Get(found.Admin)
	marked, err := server.Marked(ctx)
	if err != nil {
		return err
	}
	databases := map[postgres.Marker]bool{}
	for _, m := range marked {
		databases[tenantOf(m)] = databases[tenantOf(m)] || m.Kind == "database"
	}
	var failed error // what cannot be dropped keeps nothing else from it
	for _, m := range marked {
		// The owner role of a database goes with it; one without a database was
		// left by a claim that never got one.
		if m.Kind == "role" && m.Marker.Kind == postgres.DatabaseClaim && databases[tenantOf(m)] {
			continue
		}
		verdict, err := s.verdict(ctx, m)
		if err == nil && verdict != keep {
			err = s.carryOut(ctx, server, class, id, m, verdict)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("sweeping %s %s: %w", m.Kind, m.Name, err))
		}
	}
	return failed
}

// tenantOf is whom a marker names, without its dates.
func tenantOf(m postgres.Marked) postgres.Marker {
	return postgres.Marker{Cluster: m.Marker.Cluster, Claim: m.Marker.Claim}
}

type verdict int

const (
	keep verdict = iota
	release
	drop
)

// verdict goes by the marker's dates only when the marker's object is neither
// in the cache nor, by its clear No, on the API server.
func (s *Sweeper) verdict(ctx context.Context, m postgres.Marked) (verdict, error) {
	if m.Marker.Cluster != s.Worker.Cluster {
		return keep, nil
	}
	if v := decideSweep(m.Marker, s.Worker.Clock.Now()); v == keep {
		return keep, nil
	}
	var obj client.Object = &v1alpha1.DatabaseClaim{}
	if m.Marker.Kind == postgres.RoleClaim {
		obj = &v1alpha1.RoleClaim{}
	}
	namespace, name, _ := strings.Cut(m.Marker.Claim, "/")
	for _, reader := range []client.Reader{s.Worker.Client, s.Worker.Finder.Live} {
		err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, obj)
		if client.IgnoreNotFound(err) != nil || err == nil {
			return keep, client.IgnoreNotFound(err)
		}
	}
	return decideSweep(m.Marker, s.Worker.Clock.Now()), nil
}

// decideSweep says what becomes of something marked whose object is gone: a
// role goes; a database that nobody released begins its undo window; one whose
// window is over is dropped.
func decideSweep(m postgres.Marker, now time.Time) verdict {
	switch {
	case m.Kind == postgres.RoleClaim:
		return drop
	case m.Released == nil:
		return release
	case m.DropAfter != nil && !now.Before(*m.DropAfter):
		return drop
	}
	return keep
}

func (s *Sweeper) carryOut(ctx context.Context, server *postgres.Server, class *v1alpha1.DatabaseClass, id string, m postgres.Marked, v verdict) error {
	want := postgres.Database{Name: m.Name, Owner: m.Owner, Marker: m.Marker}
	if m.Kind == "role" {
		want = postgres.Database{Owner: m.Name, Marker: m.Marker, External: true}
	}
	facts, err := server.Facts(ctx)
	if err != nil {
		return err
	}
	want.Logins = naming.Logins(want.Owner)
	have, err := server.ReadDatabase(ctx, want)
	if err != nil {
		return err
	}
	if err := server.Apply(ctx, decideSwept(postgres.Release{Database: want, Marker: m.Marker, Logins: have.Logins}, have, facts, class, v, s.Worker.Clock.Now())); err != nil {
		return err
	}
	s.Log.Info("swept", "kind", m.Kind, "name", m.Name, "claim", m.Marker.Claim, "dropped", v == drop)
	if v == drop && m.Kind == "database" && class.Spec.Dedicated {
		return s.Worker.Finder.Backends[class.Spec.Backend].Delete(ctx, id)
	}
	return nil
}

func decideSwept(r postgres.Release, have postgres.DatabaseState, facts postgres.Facts, class *v1alpha1.DatabaseClass, v verdict, now time.Time) []postgres.Statement {
	if v == drop {
		return postgres.DecideDrop(r.Database, have, r.Logins, facts)
	}
	r.Marker.Released = &now
	if !r.Marker.Retain {
		end := now.Add(class.Spec.Deletion.Window())
		r.Marker.DropAfter = &end
	}
	return postgres.DecideRelease(r, have, facts)
}
