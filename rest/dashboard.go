package rest

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// rows is how many lines a table of the dashboard has.
const rows = 100

// others are the kinds that the dashboard lists besides; one that is not
// installed is left out.
var others = []string{"DatabaseClaim", "DatabaseClass", "PostgresInstance", "Migration", "RestoreReplica"}

type dashboardPage struct {
	Orgs        int
	States      []stateCount
	Rows        []org
	Query, Next string
	Others      []kindTable
}

type stateCount struct {
	State v1alpha1.WarehouseState
	Count int
}

type kindTable struct {
	Kind string
	More bool
	Rows []kindRow
}

type kindRow struct{ Name, State, Why string }

func (a *API) dashboard(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	query := r.URL.Query()
	orgs, warehouses := &v1alpha1.OrgList{}, &v1alpha1.WarehouseList{}
	if err := cmp.Or(a.Cache.List(ctx, orgs), a.Cache.List(ctx, warehouses)); err != nil {
		answer(w, explain(err))
		return
	}
	page := dashboardPage{Orgs: len(orgs.Items), Query: query.Get("q"), States: count(warehouses.Items)}
	found := slices.DeleteFunc(orgs.Items, func(o v1alpha1.Org) bool { return !strings.HasPrefix(o.Name, page.Query) })
	part := paged(found, &paging{Limit: rows, Continue: query.Get("continue")}, func(o v1alpha1.Org) string { return o.Name })
	page.Next = part.Continue
	for i := range part.Body {
		page.Rows = append(page.Rows, a.show(ctx, &part.Body[i]))
	}
	for _, kind := range others {
		if table, ok := a.table(ctx, kind); ok {
			page.Others = append(page.Others, table)
		}
	}
	show(w, http.StatusOK, "orgs.html", "Organisations", page)
}

func count(warehouses []v1alpha1.Warehouse) []stateCount {
	counts := map[v1alpha1.WarehouseState]int{}
	for i := range warehouses {
		counts[warehouses[i].State()]++
	}
	var list []stateCount
	for state, n := range counts {
		list = append(list, stateCount{state, n})
	}
	slices.SortFunc(list, func(a, b stateCount) int { return strings.Compare(string(a.State), string(b.State)) })
	return list
}

// table lists objects of a kind by their root condition.
func (a *API) table(ctx context.Context, kind string) (kindTable, bool) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind + "List"))
	if err := a.Live.List(ctx, list, client.Limit(rows)); err != nil {
		return kindTable{}, false
	}
	t := kindTable{Kind: kind, More: list.GetContinue() != ""}
	for i := range list.Items {
		o := &list.Items[i]
		row := kindRow{Name: strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/"), State: string(metav1.ConditionUnknown)}
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		for _, c := range conditions {
			if fields, ok := c.(map[string]any); ok && (fields["type"] == v1alpha1.Ready || fields["type"] == "Succeeded") {
				row.State, _ = fields["status"].(string)
				row.Why, _ = fields["message"].(string)
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t, true
}

func (a *API) dashboardOrg(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	o, err := a.org(ctx, r.PathValue("id"))
	if err != nil {
		p := explain(err)
		if p.status == http.StatusNotFound {
			show(w, p.status, "missing.html", "Not found", nil)
			return
		}
		answer(w, p)
		return
	}
	page := struct {
		Org       org
		Warehouse *configuration
		Progress  operation
	}{Org: a.show(ctx, o)}
	if found, err := a.warehouse(ctx, o.Name); err == nil {
		c := configurationOf(found)
		page.Warehouse = &c
		verb := verbProvision
		if found.Spec.Deprovision {
			verb = verbDeprovision
		}
		page.Progress = operationOf(found, verb, found.Spec.Attempt)
	}
	show(w, http.StatusOK, "org.html", o.Name, page)
}
