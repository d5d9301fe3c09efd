package claim

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/utils/ptr"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/step"
)

// findServer has the class's backend bring the server up, or takes the one the claim brought.
func (w *Worker) findServer(ctx context.Context, s *scope) step.Outcome {
	status := s.claim.Status.Server
	if status == nil {
		status = &v1alpha1.ServerStatus{Backend: s.class.Spec.Backend, ID: backend.ServerID(s.claim, s.class)}
		if s.external() {
			status.Backend, status.ID = backend.Source, string(s.claim.UID)
		}
		s.claim.Status.Server = status
	}
	if s.external() != (status.Backend == backend.Source) {
		return step.Blocked("MigrationUnavailable", "Moving a database between a source and a server of class %s is a migration, which this version cannot do yet; set spec.useExistingSource: %t again.",
			s.class.Name, status.Backend == backend.Source)
	}
	if out := w.reach(ctx, s, true); !out.IsDone() {
		return out
	}
	facts, err := s.logins.Server.Facts(ctx)
	if err != nil {
		return backend.Outcome(err)
	}
	status.Host, status.Port, status.Version = s.admin.Host, int32(s.admin.Port), versionText(facts.Version)
	if wanted, _, _ := strings.Cut(s.claim.Spec.DBVersion, "."); wanted != "" && wanted != strconv.Itoa(facts.Version/10000) {
		return step.Blocked("VersionMismatch", "spec.dbVersion asks for PostgreSQL %s; the server runs %s. Moving to another major version is a migration, which is never started by itself: set spec.dbVersion to %d.",
			wanted, status.Version, facts.Version/10000)
	}
	return step.Done()
}

// reach makes s.logins work on the claim's server.
func (w *Worker) reach(ctx context.Context, s *scope, create bool) step.Outcome {
	admin, out := w.Finder.Find(ctx, s.claim, s.class, create)
	if !out.IsDone() {
		return out
	}
	if s.external() {
		s.claim.Status.Database = admin.Database
	}
	s.admin = admin
	*s.logins = backend.Logins{
		Server: w.Servers.Get(admin), Database: s.database(), Owner: s.owner(),
		Superuser:   ptr.Deref(s.claim.Spec.EnableSuperUser, false),
		Replication: ptr.Deref(s.claim.Spec.EnableReplicationRole, false),
	}
	return step.Done()
}

// versionText writes server_version_num as people do: 150018 is 15.18.
func versionText(number int) string { return fmt.Sprintf("%d.%d", number/10000, number%10000) }
