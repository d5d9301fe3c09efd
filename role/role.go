package role

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"time"

	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/postgres"
	"github.com/berth-dev/berth/step"
)

// ensureRole gives the role exactly the rights of its map, and runs no SQL
// between drift intervals unless the map or the server changed.
func (w *Worker) ensureRole(ctx context.Context, s *scope) step.Outcome {
	if s.copies() {
		return step.Done()
	}
	want := s.wantMember(w.Cluster)
	wanted, now := s.fingerprint(want), w.Clock.Now()
	if left := w.verified.Left(s.role.UID, wanted, now); left > 0 {
		return step.Done().Again(left)
	}
	if err := s.applyMember(ctx, want, postgres.DecideMember); err != nil {
		return backend.Outcome(err)
	}
	return step.Done().Again(w.verified.Keep(s.role.UID, wanted, now, s.class.Spec.DriftInterval.Duration))
}

type decision func(postgres.Member, postgres.MemberState, postgres.Facts) ([]postgres.Statement, error)

func (s *scope) applyMember(ctx context.Context, want postgres.Member, decide decision) error {
	plan, err := s.decideMember(ctx, want, decide)
	if err != nil {
		return err
	}
	return s.logins.Server.Apply(ctx, plan)
}

func (s *scope) decideMember(ctx context.Context, want postgres.Member, decide decision) ([]postgres.Statement, error) {
	facts, err := s.logins.Server.Facts(ctx)
	if err != nil {
		return nil, err
	}
	have, err := s.logins.Server.ReadMember(ctx, want)
	if err != nil {
		return nil, err
	}
	return decide(want, have, facts)
}

func (s *scope) wantMember(cluster string) postgres.Member {
	access := make(map[string]string, len(s.role.Spec.SchemaRoleMap))
	for schema, role := range s.role.Spec.SchemaRoleMap {
		access[schema] = string(role)
	}
	return postgres.Member{
		Database: s.role.Status.Database, DatabaseOwner: s.source.Status.Owner, Role: s.owner(), Access: access,
		Marker:   postgres.Marker{Cluster: cluster, Claim: s.role.Namespace + "/" + s.role.Name, Kind: postgres.RoleClaim},
		External: s.source.Status.Server.Backend == backend.Source,
	}
}

// fingerprint changes when what is wanted, the server, or the claim itself
// changes: a claim that came back has lost its members' rights.
func (s *scope) fingerprint(want postgres.Member) uint64 {
	h := fnv.New64a()
	_ = json.NewEncoder(h).Encode(want) // a hash takes every write
	_ = json.NewEncoder(h).Encode([]any{s.admin.Host, s.admin.Port, s.source.UID})
	return h.Sum64()
}

// releaseGrace is how long a deletion waits for the server; see package claim.
const releaseGrace = 2 * time.Minute

// releaseRole drops the role and its logins; what they own goes to the
// database's owner. Without the claim there is no way to the server: the
// sweeper drops the role when it sees that its RoleClaim is gone.
func (w *Worker) releaseRole(ctx context.Context, s *scope) step.Outcome {
	if s.copies() || s.role.Status.Server == nil {
		return w.forget(s)
	}
	if s.source == nil || s.class == nil || s.source.Status.Server == nil {
		return w.forget(s).Note("LeftBehind", "The DatabaseClaim or its class is gone: role %s is left to the sweeper.", s.role.Status.Owner)
	}
	out := w.release(ctx, s)
	if !out.IsDone() && w.Clock.Now().Sub(s.role.DeletionTimestamp.Time) > releaseGrace {
		return w.forget(s).Note("LeftBehind", "The server did not let berth drop role %s within %s: it is left to the sweeper.", s.role.Status.Owner, releaseGrace)
	}
	return out
}

func (w *Worker) release(ctx context.Context, s *scope) step.Outcome {
	if out := w.reach(ctx, s); !out.IsDone() {
		return out
	}
	logins, err := s.logins.Read(ctx)
	if err != nil {
		return backend.Outcome(err)
	}
	err = s.applyMember(ctx, s.wantMember(w.Cluster), func(want postgres.Member, have postgres.MemberState, facts postgres.Facts) ([]postgres.Statement, error) {
		return postgres.DecideDropMember(want, have, logins, facts), nil
	})
	if err != nil {
		return backend.Outcome(err)
	}
	return w.forget(s)
}

func (w *Worker) forget(s *scope) step.Outcome {
	w.verified.Forget(s.role.UID)
	w.Keeper.Forget(s.role.UID)
	return step.Done()
}
