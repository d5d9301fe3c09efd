package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing/fstest"
	"time"

	"golang.org/x/sync/errgroup"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/dev"
	"github.com/berth-dev/berth/warehouse/duckling"
)

// lake is a world with a controller and the Duckling's definition, whose
// composites we bring up as Crossplane would.
type lake struct {
	*world
	hole net.Listener // takes connections and never answers
}

func newLake(ctx context.Context, b *bench) (context.Context, *lake, error) {
	ctx, w, err := newWorld(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	l := &lake{world: w}
	err = func() (err error) {
		if l.hole, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return fmt.Errorf("listening: %w", err)
		}
		if err := dev.InstallCRDs(ctx, w.plane.Config(), ducklings()); err != nil {
			return err
		}
		_, err = w.startController(ctx, "--duckling-namespace="+namespace, "--org-namespace="+namespace)
		return err
	}()
	if err != nil {
		return nil, nil, errors.Join(err, w.close())
	}
	return ctx, l, nil
}

// ducklings is a definition that takes anything.
func ducklings() fstest.MapFS {
	open := &apiextensions.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}
	d := &apiextensions.CustomResourceDefinition{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"},
		ObjectMeta: metav1.ObjectMeta{Name: "ducklings." + duckling.Kind.Group},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: duckling.Kind.Group, Scope: apiextensions.NamespaceScoped,
			Names: apiextensions.CustomResourceDefinitionNames{Kind: "Duckling", ListKind: "DucklingList", Plural: "ducklings", Singular: "duckling"},
			Versions: []apiextensions.CustomResourceDefinitionVersion{{
				Name: duckling.Kind.Version, Served: true, Storage: true, Schema: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: open},
				Subresources: &apiextensions.CustomResourceSubresources{Status: &apiextensions.CustomResourceSubresourceStatus{}},
			}},
		},
	}
	text, _ := yaml.Marshal(d) // of types made for it
	return fstest.MapFS{"duckling.yaml": {Data: text}}
}

// provision makes n orgs and their warehouses at once, the last ones of which
// hang, and returns how long each other took to be ready, in seconds.
func (l *lake) provision(ctx context.Context, prefix string, n, hanging int) ([]float64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work errgroup.Group
	l.bringUp(ctx, &work, n)
	began, mu := map[string]time.Time{}, sync.Mutex{}
	work.Go(func() error {
		var makers errgroup.Group
		makers.SetLimit(atOnce)
		for i := range n {
			name := fmt.Sprintf("%s-%d", prefix, i)
			if i >= n-hanging {
				name = fmt.Sprintf("%s-hangs-%d", prefix, i)
			}
			makers.Go(func() error {
				mu.Lock()
				began[name] = time.Now()
				mu.Unlock()
				return l.make(ctx, name)
			})
		}
		err := makers.Wait()
		if err != nil {
			cancel(err)
		}
		return err
	})
	took := map[string]float64{}
	err := l.watch(ctx, &v1alpha1.WarehouseList{}, func() {}, func(o client.Object) bool {
		w := o.(*v1alpha1.Warehouse)
		mu.Lock()
		since, ours := began[w.Name]
		mu.Unlock()
		if _, known := took[w.Name]; ours && !known && w.State() == v1alpha1.StateReady {
			took[w.Name] = time.Since(since).Seconds()
		}
		return len(took) == n-hanging
	})
	cancel(context.Canceled)
	if failed := work.Wait(); err == nil && failed != nil && !errors.Is(failed, context.Canceled) {
		err = failed
	}
	return slices.Collect(maps.Values(took)), err
}

// bringUp writes the status of each of n new composites as soon as it is there,
// as Crossplane would, until ctx ends.
func (l *lake) bringUp(ctx context.Context, work *errgroup.Group, n int) {
	composites := &unstructured.UnstructuredList{}
	composites.SetGroupVersionKind(duckling.Kind.GroupVersion().WithKind("DucklingList"))
	up := make(chan string, n)
	work.Go(func() error {
		return l.watch(ctx, composites, func() {}, func(o client.Object) bool {
			if status, _, _ := unstructured.NestedMap(o.(*unstructured.Unstructured).Object, "status"); status == nil {
				up <- o.GetName()
			}
			return false
		})
	})
	for range atOnce {
		work.Go(func() error {
			for {
				select {
				case name := <-up:
					if err := l.say(ctx, name, l.status(name)); err != nil {
						return err
					}
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
}

func (l *lake) make(ctx context.Context, name string) error {
	of := metav1.ObjectMeta{Name: name}
	o := &v1alpha1.Warehouse{ObjectMeta: of, Spec: v1alpha1.WarehouseSpec{MetadataStore: v1alpha1.MetadataStoreSpec{Type: "cnpg-shard"}}}
	if err := client.IgnoreAlreadyExists(l.client.Create(ctx, &v1alpha1.Org{ObjectMeta: of})); err != nil {
		return fmt.Errorf("making org %s: %w", name, err)
	}
	if err := l.client.Create(ctx, o); err != nil {
		return fmt.Errorf("making warehouse %s: %w", name, err)
	}
	return nil
}

// status is that of a composite which is up; its pooler is the server, or a
// hole for one that hangs.
func (l *lake) status(name string) map[string]any {
	pooler := l.admin.Address()
	if strings.Contains(name, "-hangs-") {
		pooler = l.hole.Addr().String()
	}
	return map[string]any{
		"metadataStore": map[string]any{"endpoint": "db.example.org", "pgbouncerEndpoint": pooler, "user": l.admin.User, "database": l.admin.Database, "password": l.admin.Password},
		"dataStore":     map[string]any{"bucketName": name}, "iamRoleArn": "arn:aws:iam::1:role/" + name, "conditions": lakeConditions("True", ""),
	}
}

func lakeConditions(ready, says string) []any {
	at := time.Now().UTC().Format(time.RFC3339)
	return []any{
		map[string]any{"type": "Synced", "status": "True", "reason": "Bench", "lastTransitionTime": at},
		map[string]any{"type": "Ready", "status": ready, "reason": "Bench", "message": says, "lastTransitionTime": at},
	}
}

func (l *lake) say(ctx context.Context, name string, status map[string]any) error {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(duckling.Kind)
	o.SetNamespace(namespace)
	o.SetName(name)
	body, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	if err := l.client.Status().Patch(ctx, o, client.RawPatch(types.MergePatchType, body)); err != nil {
		return fmt.Errorf("writing the status of %s: %w", name, err)
	}
	return nil
}

func (l *lake) close() error { return errors.Join(l.hole.Close(), l.world.close()) }
