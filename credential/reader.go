package credential

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Reader is a proxy that says which login all its connections use.
type Reader struct {
	Pod      string
	Login    string // empty until it has said one
	Trouble  string // what it told of last; empty when all is well
	Sidecars []Sidecar
}

// Sidecar is one of a pod, by what it is and its image or version.
type Sidecar struct{ Kind, Revision string }

// Readers knows the proxies of claims.
type Readers interface {
	// Readers are those of an object, kind as in labels, in order of their pods.
	Readers(kind string, object client.ObjectKey) []Reader
	// OnReaders calls notify, soon after the fact and from any goroutine, with
	// an object whose Readers may have changed.
	OnReaders(notify func(kind string, object client.ObjectKey))
}

// Limits of a status; the rest is only counted.
const (
	waitingLimit  = 10
	troubledLimit = 10
	sidecarsLimit = 20
)

// Summarize is the status that readers make while login is the current one;
// nil when there are none.
func Summarize(readers []Reader, login string) *v1alpha1.Consumers {
	if len(readers) == 0 {
		return nil
	}
	out := &v1alpha1.Consumers{Proxies: int32(len(readers))}
	pods := map[Sidecar]int32{}
	for _, r := range readers {
		if r.Trouble != "" && len(out.Troubled) < troubledLimit {
			out.Troubled = append(out.Troubled, v1alpha1.Trouble{Pod: r.Pod, Message: r.Trouble})
		}
		for _, s := range r.Sidecars {
			pods[s]++
		}
	}
	waiting := using(readers, func(used string) bool { return used != login })
	out.Current = out.Proxies - int32(len(waiting))
	out.Waiting = slices.Clip(waiting[:min(len(waiting), waitingLimit)])
	for s, n := range pods {
		out.Sidecars = append(out.Sidecars, v1alpha1.Sidecars{Kind: s.Kind, Revision: s.Revision, Pods: n})
	}
	slices.SortFunc(out.Sidecars, func(a, b v1alpha1.Sidecars) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Revision, b.Revision))
	})
	out.Sidecars = out.Sidecars[:min(len(out.Sidecars), sidecarsLimit)]
	return out
}

// using are the pods whose login is what matches says, in order.
func using(readers []Reader, matches func(login string) bool) []string {
	var pods []string
	for _, r := range readers {
		if matches(r.Login) {
			pods = append(pods, r.Pod)
		}
	}
	slices.Sort(pods)
	return pods
}

// list names the first pods, and how many more there are.
func list(pods []string) string {
	text := strings.Join(pods[:min(len(pods), waitingLimit)], ", ")
	if len(pods) > waitingLimit {
		text += ", …"
	}
	return text
}

// newTrouble is what now tells of and before did not.
func newTrouble(before, now *v1alpha1.Consumers) []v1alpha1.Trouble {
	var out []v1alpha1.Trouble
	for _, t := range ptr.Deref(now, v1alpha1.Consumers{}).Troubled {
		if !slices.Contains(ptr.Deref(before, v1alpha1.Consumers{}).Troubled, t) {
			out = append(out, t)
		}
	}
	return out
}
