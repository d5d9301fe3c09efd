package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// InstallCRDs applies every object of the YAML files in files: the
// CustomResourceDefinitions first, the others once all of those are served. It
// may be repeated. It returns when each kind can be listed, when the server
// gives a reason for not serving one, or when ctx ends.
func InstallCRDs(ctx context.Context, config *rest.Config, files fs.FS) error {
	objects, err := readObjects(files)
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := apiextensions.AddToScheme(scheme); err != nil {
		return fmt.Errorf("registering kinds: %w", err)
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("making client: %w", err)
	}
	var definitions, others []*unstructured.Unstructured
	for _, object := range objects {
		if object.GetKind() == "CustomResourceDefinition" {
			definitions = append(definitions, object)
		} else {
			others = append(others, object)
		}
	}
	if err := apply(ctx, c, definitions); err != nil {
		return err
	}
	for _, definition := range definitions {
		if err := waitServed(ctx, c, definition.GetName()); err != nil {
			return fmt.Errorf("waiting for %s: %w", definition.GetName(), err)
		}
	}
	return apply(ctx, c, others)
}

func readObjects(files fs.FS) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if extension := path.Ext(name); err != nil || entry.IsDir() || (extension != ".yaml" && extension != ".yml") {
			return err
		}
		file, err := files.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		decoder := yaml.NewYAMLOrJSONDecoder(file, 4096)
		for {
			object := &unstructured.Unstructured{}
			if err := decoder.Decode(&object.Object); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return fmt.Errorf("parsing %s: %w", name, err)
			}
			if len(object.Object) > 0 {
				objects = append(objects, object)
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("reading objects: %w", err)
	}
	return objects, nil
}

func apply(ctx context.Context, c client.Client, objects []*unstructured.Unstructured) error {
	for _, object := range objects {
		err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("berth-dev"), client.ForceOwnership)
		if err != nil {
			return fmt.Errorf("applying %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

func waitServed(ctx context.Context, c client.Client, name string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		served, err := served(ctx, c, name)
		if served || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// served asks for the objects of a definition, since its condition Established
// comes a moment before the server answers for it.
func served(ctx context.Context, c client.Client, name string) (bool, error) {
	definition := &apiextensions.CustomResourceDefinition{}
	if err := c.Get(ctx, client.ObjectKey{Name: name}, definition); err != nil {
		return false, err
	}
	for _, condition := range definition.Status.Conditions {
		if condition.Type == apiextensions.NamesAccepted && condition.Status == apiextensions.ConditionFalse {
			return false, errors.New(condition.Message)
		}
	}
	for _, version := range definition.Spec.Versions {
		if !version.Served {
			continue
		}
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(schema.GroupVersionKind{
			Group: definition.Spec.Group, Version: version.Name, Kind: definition.Spec.Names.ListKind,
		})
		err := c.List(ctx, list, client.Limit(1))
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}
