package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const orders = "apiVersion: berth.dev/v1alpha1\nkind: DatabaseClaim\nmetadata: {name: orders}\n"

func TestManifest(t *testing.T) {
	t.Parallel()
	kinds, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		text  string
		names []string
		err   string // what the error holds
	}{
		"reads all documents in order": {
			text:  "# first\n" + orders + "---\n---\n# nothing\n---\n" + strings.ReplaceAll(orders, "orders", "billing"),
			names: []string{"orders", "billing"},
		},
		"names an unknown field":            {text: orders + "spec: {shapes: big}", err: `document 1: DatabaseClaim orders: strict decoding error: unknown field "spec.shapes"`},
		"names an unknown field of a list":  {text: orders + "spec: {tags: [{key: a, valu: b}]}", err: `unknown field "spec.tags[0].valu"`},
		"names a field that is there twice": {text: orders + "spec: {class: a, class: b}", err: `"class"`},
		"counts documents":                  {text: orders + "---\n" + orders + "spec: {shapes: big}", err: "document 2: "},
		"refuses a value of another type":   {text: orders + "spec: {minStorageGB: many}", err: "minStorageGB"},
		"refuses another kind":              {text: "apiVersion: apps/v1\nkind: Deployment", err: `does not know kind "Deployment" of "apps/v1"; it plans DatabaseClaim, RoleClaim and DatabaseClass`},
		"refuses another version":           {text: strings.ReplaceAll(orders, "v1alpha1", "v9"), err: `"berth.dev/v9"`},
		"needs a name":                      {text: "apiVersion: berth.dev/v1alpha1\nkind: RoleClaim\nmetadata: {generateName: x-}", err: "metadata.name is missing"},
		"needs an object":                   {text: "# nothing\n---\n", err: "holds no object"},
		"refuses what is no YAML":           {text: "{", err: "reading YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects, err := readManifest("-", strings.NewReader(tc.text), kinds)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error is %v, want one with %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, o := range objects {
				names = append(names, o.GetName())
			}
			if diff := cmp.Diff(tc.names, names); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}
