package migration

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres/replication"
	"github.com/berth-dev/berth/step"
)

// secondLook is how soon a finding is looked at again that no watch tells of.
const secondLook = 30 * time.Second

func majorOf(version string) string {
	major, _, _ := strings.Cut(version, ".")
	return major
}

// admit refuses what cannot be moved, and stores the names of what will be made.
func (w *Worker) admit(ctx context.Context, s *scope) step.Outcome {
	m := s.migration
	switch {
	case s.claim == nil:
		return step.Blocked("ClaimMissing", "There is no DatabaseClaim %s in namespace %s.", m.Spec.Claim, m.Namespace).Again(secondLook)
	case s.class == nil:
		return step.Blocked("ClassMissing", "There is no DatabaseClass %s.", s.claim.Spec.Class).Again(secondLook)
	case !s.class.Spec.Dedicated || s.claim.Status.Server != nil && s.claim.Status.Server.Backend == backend.Source:
		return step.Blocked("SharedServer", "Claim %s shares its server; only a claim with a server of its own (a class with spec.dedicated) can be moved.", s.claim.Name)
	case s.claim.Status.Server == nil || !meta.IsStatusConditionTrue(s.claim.Status.Conditions, v1alpha1.SecretPublished):
		return step.Wait(secondLook, "ClaimNotReady", "Claim %s has no database yet.", s.claim.Name)
	case majorOf(s.claim.Status.Server.Version) == m.Spec.To.Version && m.Status.Name == "":
		return step.Blocked("AlreadyThere", "Claim %s is on PostgreSQL %s.", s.claim.Name, m.Spec.To.Version)
	}
	if out := w.alone(ctx, s); !out.IsDone() {
		return out
	}
	if m.Status.Name == "" {
		source := *s.claim.Status.Server
		m.Status.Name, m.Status.Serving, m.Status.Source = naming.Migration(string(m.UID)), v1alpha1.SideSource, &source
		m.Status.Target = &v1alpha1.ServerStatus{Backend: source.Backend, ID: s.targetID()}
	}
	return step.Done()
}

// alone refuses a second migration of the claim until the first is over; the
// older one goes first.
func (w *Worker) alone(ctx context.Context, s *scope) step.Outcome {
	list := &v1alpha1.MigrationList{}
	if err := w.Client.List(ctx, list, client.InNamespace(s.migration.Namespace)); err != nil {
		return step.Failed("MigrationsUnreadable", fmt.Errorf("listing migrations: %w", err))
	}
	for i := range list.Items {
		other := &list.Items[i]
		if other.Spec.Claim != s.migration.Spec.Claim || other.UID == s.migration.UID || meta.IsStatusConditionTrue(other.Status.Conditions, v1alpha1.Succeeded) {
			continue
		}
		if other.Status.Name != "" || older(other, s.migration) {
			return step.Blocked("AnotherMigration", "Migration %s moves the claim already; close or delete it first.", other.Name).Again(secondLook)
		}
	}
	return step.Done()
}

func older(a, b *v1alpha1.Migration) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

// readyTarget has the backend bring the new server up.
func (w *Worker) readyTarget(ctx context.Context, s *scope) step.Outcome {
	status := s.migration.Status.Target
	side, out := w.server(ctx, s, status, s.migration.Spec.To.Version, true)
	if !out.IsDone() {
		return out.Again(time.Second)
	}
	facts, err := w.Servers.Get(maintenance(side)).Facts(ctx)
	if err != nil {
		return backend.Outcome(err)
	}
	status.Host, status.Port = side.Admin.Host, int32(side.Admin.Port)
	status.Version = fmt.Sprintf("%d.%d", facts.Version/10000, facts.Version%10000)
	return step.Done()
}

const findingsKept = 100

// preflight blocks on what the move would break. It looks again by itself:
// most of it is mended in the database.
func (w *Worker) preflight(ctx context.Context, s *scope) step.Outcome {
	p, out := w.pair(ctx, s)
	if !out.IsDone() {
		return out
	}
	m := s.migration
	survey, err := p.ReadSurvey(ctx)
	if err != nil {
		return backend.Outcome(err)
	}
	if standing, err := p.ReadTarget(ctx); err != nil {
		return backend.Outcome(err)
	} else if standing.Exists {
		survey.Taken = false // by this very migration
	}
	accept := replication.Options{FullIdentity: m.Spec.Accept.FullIdentity, LostObjects: m.Spec.Accept.LargeObjectsStay}
	findings := replication.DecidePreflight(survey, accept)
	if w.Proxies == nil {
		findings = append(findings, replication.Finding{
			Severity: replication.Warns, Code: "NoSwitchboard", Object: "the controller",
			Message: "It serves no switchboard: no proxy pauses, and the switch ends the sessions of all clients.",
		})
	}
	m.Status.Findings = nil
	for _, f := range findings[:min(len(findings), findingsKept)] {
		m.Status.Findings = append(m.Status.Findings, v1alpha1.MigrationFinding{Severity: f.Severity, Code: f.Code, Object: f.Object, Message: f.Message})
	}
	if refused := replication.Refused(findings); len(refused) > 0 {
		return step.Blocked(refused[0].Code, "%d findings refuse the move; the first: %s: %s", len(refused), refused[0].Object, refused[0].Message).Again(secondLook)
	}
	return step.Done()
}
