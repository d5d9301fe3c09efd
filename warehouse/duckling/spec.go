package duckling

import (
	"encoding/json"
	"maps"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// spec is what the composite must hold. Objects that nobody asked for are left
// out: an empty one would make the definition fill in its own defaults.
func (p *Provider) spec(w *v1alpha1.Warehouse) map[string]any {
	store := map[string]any{"type": w.Spec.MetadataStore.Type}
	if aurora := w.Spec.MetadataStore.Aurora; aurora != nil {
		store["aurora"] = map[string]any{"minACU": number(aurora.MinACU), "maxACU": number(aurora.MaxACU)}
	}
	if external := w.Spec.MetadataStore.External; external != nil {
		store["external"] = map[string]any{"endpoint": external.Endpoint, "user": external.User, "database": external.Database}
		if external.PasswordAWSSecret != "" {
			store["external"].(map[string]any)["passwordAwsSecret"] = external.PasswordAWSSecret
		}
	}
	if w.Spec.MetadataStore.PgBouncer {
		store["pgbouncer"] = map[string]any{"enabled": true}
	}
	data := map[string]any{"type": w.Spec.DataStore.Type}
	if w.Spec.DataStore.BucketName != "" {
		data["bucketName"] = w.Spec.DataStore.BucketName
	}
	if w.Spec.DataStore.Region != "" {
		data["region"] = w.Spec.DataStore.Region
	}
	want := map[string]any{"metadataStore": store, "dataStore": data}
	if w.Spec.Iceberg != nil && w.Spec.Iceberg.Enabled {
		iceberg := map[string]any{"enabled": true}
		if w.Spec.Iceberg.Namespace != "" {
			iceberg["namespace"] = w.Spec.Iceberg.Namespace
		}
		want["iceberg"] = iceberg
	}
	return over(p.Extras, want)
}

// over merges top into a copy of below; where both have a value, top's wins.
func over(below, top map[string]any) map[string]any {
	merged := maps.Clone(below)
	if merged == nil {
		merged = map[string]any{}
	}
	for key, value := range top {
		into, both := merged[key].(map[string]any)
		from, objects := value.(map[string]any)
		if both && objects {
			merged[key] = over(into, from)
		} else {
			merged[key] = value
		}
	}
	return merged
}

// number is a decimal as JSON has it: whole ones as integers, which is how the
// API server gives them back.
func number(d v1alpha1.Decimal) any {
	if n, err := strconv.ParseInt(string(d), 10, 64); err == nil {
		return n
	}
	f, _ := strconv.ParseFloat(string(d), 64) // the API server checked its form
	return f
}

// covers reports whether have says all that want says; it may say more.
func covers(have, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		object, ok := have.(map[string]any)
		if !ok {
			return false
		}
		for key, value := range want {
			if !covers(object[key], value) {
				return false
			}
		}
		return true
	case []any:
		list, ok := have.([]any)
		if !ok || len(list) != len(want) {
			return false
		}
		for i := range want {
			if !covers(list[i], want[i]) {
				return false
			}
		}
		return true
	}
	a, isNumber := float(have)
	b, wantNumber := float(want)
	if isNumber && wantNumber {
		return a == b
	}
	return have == want
}

func float(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case int:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

func spec(composite *unstructured.Unstructured) map[string]any {
	have, _, _ := unstructured.NestedMap(composite.Object, "spec") // one of another form covers nothing
	return have
}

// merge corrects the spec without a resource version: Crossplane writes to it too.
func merge(want map[string]any) client.Patch {
	body, _ := json.Marshal(map[string]any{"spec": want}) // of JSON's own types
	return client.RawPatch(types.MergePatchType, body)
}
