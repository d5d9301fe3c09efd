package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/postgres"
)

// Previewer says what an object would cause. It changes nothing.
type Previewer interface {
	Preview(ctx context.Context, obj client.Object) (backend.Preview, error)
}

// PlanCmd shows what a manifest would cause.
type PlanCmd struct {
	File string `short:"f" required:"" help:"Manifest to plan; - is standard input." placeholder:"FILE"`
}

// Help shows uses and exit codes.
func (PlanCmd) Help() string {
	return "Nothing is changed: the API server validates a dry run, and the server is only read. Passwords are never shown.\n" +
		"The exit code is 2 when the API or berth would refuse an object.\n\n" +
		"  berth plan -f claim.yaml\n  kubectl get dbc orders -o yaml | sed 's/17/18/' | berth plan -f -"
}

// Run prints the plan of each object of the manifest.
func (c *PlanCmd) Run(ctx context.Context, g *Globals) error {
	d, err := g.desk()
	if err != nil {
		return err
	}
	previewer, err := newPreviewer(g)
	if err != nil {
		return err
	}
	return explained(interrupted(ctx, c.run(ctx, d, previewer)))
}

func (c *PlanCmd) run(ctx context.Context, d *desk, previewer Previewer) error {
	objects, err := readManifest(c.File, d.in, d.api.Scheme())
	if err != nil {
		return exitError{exitRefused, err}
	}
	var plans []plan
	refused := 0
	for _, o := range objects {
		p, err := d.plan(ctx, o, previewer)
		if err != nil {
			return err
		}
		if len(p.Stops) > 0 {
			refused++
		}
		plans = append(plans, p)
	}
	if d.format != asTable {
		err = d.print(plans, d.format)
	} else {
		err = d.printPlans(plans)
	}
	if err == nil && refused > 0 {
		err = exitError{exitRefused, fmt.Errorf("%d of %d objects would be refused; see what stops them above", refused, len(plans))}
	}
	return err
}

// plan is what one object would cause, as -o json prints it.
type plan struct {
	Kind      string    `json:"kind"`
	Namespace string    `json:"namespace,omitempty"`
	Name      string    `json:"name"`
	Stops     []string  `json:"stops,omitempty"`
	Objects   []string  `json:"objects,omitempty"`
	SQL       []planned `json:"sql,omitempty"`
	Restarts  []string  `json:"restarts,omitempty"`
}

// planned is a statement without its secrets.
type planned struct {
	Database string `json:"database,omitempty"`
	Note     string `json:"note,omitempty"`
	SQL      string `json:"sql"`
}

// plan lets the API server judge the object first, so that all its complaints
// come together.
func (d *desk) plan(ctx context.Context, o *unstructured.Unstructured, previewer Previewer) (plan, error) {
	if err := d.place(o); err != nil {
		return plan{}, err
	}
	p := plan{Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName()}
	applied, err := d.dryRun(ctx, o)
	if stops := complaints(err); stops != nil {
		p.Stops = stops
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("asking the API server about %s: %w", title(p.Kind, o), err)
	}
	preview, err := previewer.Preview(ctx, applied)
	if err != nil {
		return p, fmt.Errorf("planning %s: %w", title(p.Kind, o), err)
	}
	if preview.Stops != "" {
		p.Stops = []string{preview.Stops}
	}
	p.Objects, p.Restarts, p.SQL = preview.Objects, preview.Restarts, withoutSecrets(preview.Statements)
	return p, nil
}

func withoutSecrets(statements []postgres.Statement) []planned {
	var list []planned
	for _, s := range statements {
		list = append(list, planned{s.Database, s.Note, s.String()})
	}
	return list
}

// place gives an object without a namespace the chosen one, if its kind has any.
func (d *desk) place(o *unstructured.Unstructured) error {
	namespaced, err := d.api.IsObjectNamespaced(o)
	if err != nil {
		return fmt.Errorf("asking about kind %s: %w", o.GetKind(), err)
	}
	if namespaced && o.GetNamespace() == "" {
		o.SetNamespace(d.namespace)
	}
	return nil
}

// fieldManager is kubectl's, so that a field which left the manifest leaves
// the object in the plan too.
const fieldManager = "kubectl"

// dryRun is the object as the API server would keep it, with its defaults and
// the status it has.
func (d *desk) dryRun(ctx context.Context, o *unstructured.Unstructured) (client.Object, error) {
	u := o.DeepCopy()
	unstructured.RemoveNestedField(u.Object, "status")
	u.SetManagedFields(nil)
	u.SetResourceVersion("")
	err := d.api.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(fieldManager), client.ForceOwnership, client.DryRunAll)
	if err != nil {
		return nil, err
	}
	typed, err := d.api.Scheme().New(u.GroupVersionKind())
	if err != nil {
		return nil, err
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, typed); err != nil {
		return nil, fmt.Errorf("reading the answer of the API server: %w", err)
	}
	return typed.(client.Object), nil
}

// complaints are what the API server says against an object; nil when err is
// about something else.
func complaints(err error) []string {
	if !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		return nil
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return []string{err.Error()}
	}
	details := status.Status().Details
	if !apierrors.IsInvalid(err) || details == nil || len(details.Causes) == 0 {
		return []string{status.Status().Message}
	}
	var list []string
	for _, cause := range details.Causes {
		list = append(list, complaint(cause))
	}
	return list
}

const invalidValue = "Invalid value: "

// complaint names the field once and leaves the value out: it may hold a password.
func complaint(cause metav1.StatusCause) string {
	text, invalid := strings.CutPrefix(cause.Message, invalidValue)
	if value, err := strconv.QuotedPrefix(text); invalid && err == nil {
		text = strings.TrimPrefix(text[len(value):], ": ")
	} else if invalid && !namesField(text) {
		_, text, _ = strings.Cut(text, ": ")
	}
	if namesField(text) || !namesField(cause.Field) {
		return text
	}
	return cause.Field + ": " + text
}

// namesField reports whether text starts with the path of a field, as the
// rules of the kinds do.
func namesField(text string) bool {
	return strings.HasPrefix(text, "spec") || strings.HasPrefix(text, "metadata.")
}
