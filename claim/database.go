package claim

import (
	"context"
	"encoding/json"
	"hash/fnv"

	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/step"
)

// ensureDatabase makes and repairs the database. Between drift intervals it
// runs no SQL unless something else is wanted than was verified.
func (w *Worker) ensureDatabase(ctx context.Context, s *scope) step.Outcome {
	want := s.wantDatabase(w.Cluster)
	wanted, now := s.fingerprint(want), w.Clock.Now()
	if left := w.verified.Left(s.claim.UID, wanted, now); left > 0 {
		return step.Done().Again(left)
	}
	plan, err := s.decideDatabase(ctx, want)
	if err != nil {
		return backend.Outcome(err)
	}
	if err := s.logins.Server.Apply(ctx, plan); err != nil {
		return backend.Outcome(err)
	}
	left := w.verified.Keep(s.claim.UID, wanted, now, s.driftInterval())
	return step.Done().Again(left)
}

func (s *scope) wantDatabase(cluster string) postgres.Database {
	return postgres.Database{
		Name: s.database(), Owner: s.owner(),
		Marker: postgres.Marker{Cluster: cluster, Claim: s.key(), Kind: postgres.DatabaseClaim, Retain: s.retains()},
		Adopt:  s.claim.Spec.AdoptExisting, External: s.external(),
		Schemas: s.claim.Spec.Schemas, Extensions: s.claim.Spec.Extensions, Logins: naming.Logins(s.owner()),
	}
}

// fingerprint changes when what is wanted, or the server it is wanted on, changes.
func (s *scope) fingerprint(want postgres.Database) uint64 {
	h := fnv.New64a()
	_ = json.NewEncoder(h).Encode(want) // a hash takes every write
	_ = json.NewEncoder(h).Encode([]any{s.admin.Host, s.admin.Port, s.logins.Superuser, s.logins.Replication})
	return h.Sum64()
}

// decideDatabase is the SQL that brings the database, and the current login if
// there is one, to what is wanted.
func (s *scope) decideDatabase(ctx context.Context, want postgres.Database) ([]postgres.Statement, error) {
	server := s.logins.Server
	facts, err := server.Facts(ctx)
	if err != nil {
		return nil, err
	}
	have, err := server.ReadDatabase(ctx, want)
	if err != nil {
		return nil, err
	}
	plan, err := postgres.DecideDatabase(want, have, facts)
	s.logins.Seen = have.Logins
	if err != nil || s.claim.Status.Credential == nil {
		return plan, err
	}
	for _, login := range have.Logins {
		// One that is gone comes back with the next credential.
		if login.Exists && login.Name == s.claim.Status.Credential.Login {
			plan = append(plan, postgres.DecideLogin(s.logins.Want(login.Name), login, facts)...)
		}
	}
	return plan, nil
}
