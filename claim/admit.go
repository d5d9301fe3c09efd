package claim

import (
	"context"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/step"
)

// admit checks what the API server could not: the claim against its class.
func (w *Worker) admit(_ context.Context, s *scope) step.Outcome {
	if s.class == nil {
		return step.Blocked("ClassNotFound", "There is no DatabaseClass %q. Create it, or set spec.class to one that `kubectl get databaseclasses` shows.", s.claim.Spec.Class)
	}
	if s.class.DeletionTimestamp != nil && s.claim.Status.Server == nil {
		return step.Blocked("ClassDeleting", "DatabaseClass %s is being deleted and takes no new claims.", s.class.Name)
	}
	errs := DecideAdmission(s.claim, s.class, w.Finder.Backends[s.class.Spec.Backend])
	if len(errs) == 0 {
		s.claim.Status.Database, s.claim.Status.Owner = s.database(), s.owner()
		return step.Done()
	}
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Field + ": " + err.Detail
	}
	return step.Blocked("NotAllowed", "%s.", strings.Join(texts, "; "))
}

// DecideAdmission lists everything that class and its backend refuse of claim.
func DecideAdmission(claim *v1alpha1.DatabaseClaim, class *v1alpha1.DatabaseClass, b backend.Backend) field.ErrorList {
	spec, policy, root := claim.Spec, class.Spec, field.NewPath("spec")
	var errs field.ErrorList
	refuse := func(holds bool, path *field.Path, detail string) {
		if holds {
			errs = append(errs, field.Forbidden(path, detail))
		}
	}
	refuse(len(policy.AllowedNamespaces) > 0 && !slices.Contains(policy.AllowedNamespaces, claim.Namespace), root.Child("class"),
		"class "+class.Name+" is open to namespaces "+strings.Join(policy.AllowedNamespaces, ", ")+" only")
	refuse(ptr.Deref(spec.EnableSuperUser, false) && !policy.Allow.Superuser, root.Child("enableSuperUser"),
		"class "+class.Name+" allows no superusers; remove it, or have spec.allow.superuser set on the class")
	refuse(ptr.Deref(spec.EnableReplicationRole, false) && !policy.Allow.Replication, root.Child("enableReplicationRole"),
		"class "+class.Name+" allows no replication; remove it, or have spec.allow.replication set on the class")
	refuse(spec.AdoptExisting && !policy.Allow.Adoption, root.Child("adoptExisting"),
		"class "+class.Name+" allows no adoption; remove it, or have spec.allow.adoption set on the class")
	for i, extension := range spec.Extensions {
		refuse(!slices.Contains(policy.Allow.Extensions, extension) && !slices.Contains(policy.Allow.Extensions, "*"), root.Child("extensions").Index(i),
			"class "+class.Name+" allows "+strings.Join(policy.Allow.Extensions, ", ")+" but not "+extension)
	}
	for i, schema := range spec.Schemas {
		refuse(strings.HasPrefix(schema, "pg_") || schema == "information_schema", root.Child("schemas").Index(i),
			"names starting with pg_, and information_schema, belong to PostgreSQL; choose another name")
	}
	errs = append(errs, decideSource(claim, class)...)
	if ptr.Deref(spec.UseExistingSource, false) {
		return errs
	}
	if b == nil {
		return append(errs, field.Forbidden(root.Child("class"), "this controller does not run backend "+policy.Backend+" of class "+class.Name))
	}
	defaults := backend.Unsupported(b, backend.DefaultsOf(class))
	for _, f := range defaults {
		refuse(true, root.Child("class"), "class "+class.Name+" sets spec."+string(f)+", which its backend "+policy.Backend+" cannot do; choose another class")
	}
	for _, f := range backend.Unsupported(b, backend.WishesOf(claim, class)) {
		refuse(!slices.Contains(defaults, f), root.Child(string(f)), "backend "+policy.Backend+" of class "+class.Name+" cannot do this; remove it or choose another class")
	}
	return errs
}

// decideSource refuses sources that would be ignored or that reach too far.
func decideSource(claim *v1alpha1.DatabaseClaim, class *v1alpha1.DatabaseClass) field.ErrorList {
	spec, source := claim.Spec, field.NewPath("spec", "sourceDataFrom")
	if spec.SourceDataFrom == nil {
		return nil
	}
	var errs field.ErrorList
	if !ptr.Deref(spec.UseExistingSource, false) {
		errs = append(errs, field.Forbidden(source, "copying data from a source is a migration, which this version cannot do yet; set spec.useExistingSource: true to use the source where it is, or remove it"))
	}
	if !class.Spec.Allow.ExistingSource {
		errs = append(errs, field.Forbidden(source, "class "+class.Name+" allows no servers but its own; remove it, or have spec.allow.existingSource set on the class"))
	}
	if ref := spec.SourceDataFrom.Database.SecretRef; ref.Namespace != "" && ref.Namespace != claim.Namespace {
		errs = append(errs, field.Forbidden(source.Child("database", "secretRef", "namespace"), "a claim may only read Secrets of its own namespace "+claim.Namespace))
	}
	return errs
}

// driftInterval is how long a verified database is taken as verified.
func (s *scope) driftInterval() time.Duration { return s.class.Spec.DriftInterval.Duration }
