package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// plannable are the kinds that a manifest may hold.
var plannable = map[schema.GroupVersionKind]bool{
	v1alpha1.GroupVersion.WithKind("DatabaseClaim"): true,
	v1alpha1.GroupVersion.WithKind("RoleClaim"):     true,
	v1alpha1.GroupVersion.WithKind("DatabaseClass"): true,
}

// readManifest reads the objects of a file, or of standard input for "-".
func readManifest(file string, stdin io.Reader, kinds *runtime.Scheme) ([]*unstructured.Unstructured, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("opening the manifest: %w", err)
		}
		defer f.Close()
		in = f
	}
	var objects []*unstructured.Unstructured
	documents := utilyaml.NewYAMLReader(bufio.NewReader(in))
	for number := 1; ; number++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading the manifest: %w", err)
		}
		object, err := decodeStrictly(document, kinds)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", number, err)
		}
		if object != nil {
			objects = append(objects, object)
		}
	}
	if len(objects) == 0 {
		return nil, errors.New("the manifest holds no object; write a DatabaseClaim, RoleClaim or DatabaseClass")
	}
	return objects, nil
}

// decodeStrictly refuses fields that the kind does not have. It returns nil
// for a document without content, and else what was written, with no defaults.
func decodeStrictly(document []byte, kinds *runtime.Scheme) (*unstructured.Unstructured, error) {
	var content map[string]any
	if err := yaml.UnmarshalStrict(document, &content); err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	if len(bytes.TrimSpace(document)) == 0 || len(content) == 0 {
		return nil, nil
	}
	object := &unstructured.Unstructured{Object: content}
	gvk := object.GroupVersionKind()
	if !plannable[gvk] {
		return nil, fmt.Errorf("berth plan does not know kind %q of %q; it plans DatabaseClaim, RoleClaim and DatabaseClass of %s",
			gvk.Kind, object.GetAPIVersion(), v1alpha1.GroupVersion)
	}
	strict := serializer.NewCodecFactory(kinds, serializer.EnableStrict).UniversalDeserializer()
	if _, _, err := strict.Decode(document, nil, nil); err != nil {
		return nil, fmt.Errorf("%s %s: %w", gvk.Kind, object.GetName(), err)
	}
	if object.GetName() == "" {
		return nil, fmt.Errorf("%s: metadata.name is missing; a plan is for one named object", gvk.Kind)
	}
	return object, nil
}
