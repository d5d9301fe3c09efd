package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/yaml"
)

// Values of Globals.Output.
const (
	asTable = "table"
	asYAML  = "yaml"
)

// exitError ends the program with a code of its own.
type exitError struct {
	code int
	error
}

// ExitCode is what kong exits with.
func (e exitError) ExitCode() int { return e.code }

// Codes that scripts can tell apart from a general error, 1.
const (
	exitRefused     = 2
	exitInterrupted = 130
)

var errInterrupted = exitError{exitInterrupted, errors.New("interrupted")}

// print writes value as JSON or YAML.
func (t *terminal) print(value any, format string) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err == nil && format == asYAML {
		data, err = yaml.JSONToYAML(data)
	} else {
		data = append(data, '\n')
	}
	if err != nil {
		return fmt.Errorf("writing as %s: %w", format, err)
	}
	_, err = t.out.Write(data)
	return err
}

// printList writes objects as one List, without the fields that only servers read.
func (t *terminal) printList(kinds *runtime.Scheme, objects []client.Object, format string) error {
	for _, o := range objects {
		gvk, err := apiutil.GVKForObject(o, kinds)
		if err != nil {
			return err
		}
		o.GetObjectKind().SetGroupVersionKind(gvk)
		o.SetManagedFields(nil)
	}
	if objects == nil {
		objects = []client.Object{}
	}
	return t.print(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects}, format)
}

// explained adds to an error of the API what to do about it.
func explained(err error) error {
	switch {
	case err == nil:
		return nil
	case meta.IsNoMatchError(err):
		return fmt.Errorf("the cluster does not know berth's kinds; install deploy/crds first: %w", err)
	case utilnet.IsConnectionRefused(err):
		return fmt.Errorf("the cluster does not answer; start berth dev, or name another with --kubeconfig or --context: %w", err)
	}
	return err
}

// ago is how long before now then was, such as 5m.
func ago(then, now time.Time) string {
	if then.IsZero() {
		return "unknown"
	}
	return duration.HumanDuration(max(0, now.Sub(then)))
}
