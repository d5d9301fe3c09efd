package rest

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// hub tells who listens that the cache has news of an org or its warehouse.
type hub struct {
	mu        sync.Mutex
	listeners map[string]map[chan struct{}]bool
}

// newHub watches orgs and warehouses, and returns once the cache has them.
func newHub(ctx context.Context, c cache.Cache) (*hub, error) {
	h := &hub{listeners: map[string]map[chan struct{}]bool{}}
	for _, kind := range []client.Object{&v1alpha1.Org{}, &v1alpha1.Warehouse{}} {
		informer, err := c.GetInformer(ctx, kind)
		if err != nil {
			return nil, fmt.Errorf("watching %T: %w", kind, err)
		}
		if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: h.tell, DeleteFunc: h.tell, UpdateFunc: func(_, now any) { h.tell(now) },
		}); err != nil {
			return nil, fmt.Errorf("watching %T: %w", kind, err)
		}
	}
	return h, nil
}

func (h *hub) tell(o any) {
	if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	object, ok := o.(client.Object)
	if !ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for listener := range h.listeners[object.GetName()] {
		select {
		case listener <- struct{}{}:
		default: // it has news waiting already
		}
	}
}

// listen has news of name until stop is called.
func (h *hub) listen(name string) (news <-chan struct{}, stop func()) {
	listener := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listeners[name] == nil {
		h.listeners[name] = map[chan struct{}]bool{}
	}
	h.listeners[name][listener] = true
	return listener, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.listeners[name], listener)
		if len(h.listeners[name]) == 0 {
			delete(h.listeners, name)
		}
	}
}

// catchUp bounds how long an answer waits for the cache to have what was written.
const catchUp = 2 * time.Second

// settled returns once the cache is as new as o, so that who changed something
// sees it in the next answer of this process.
func (a *API) settled(ctx context.Context, o client.Object, m Mutation) {
	if m.DryRun {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	news, stop := a.hub.listen(o.GetName())
	defer stop()
	seen := o.DeepCopyObject().(client.Object)
	for {
		err := a.Cache.Get(ctx, client.ObjectKeyFromObject(o), seen)
		if err == nil && !older(seen.GetResourceVersion(), o.GetResourceVersion()) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
		}
	}
}

// older compares versions of one object, which are decimal numbers.
func older(a, b string) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}

// cached reads from the cache, and asks the API server about what is not in it.
func (a *API) cached(ctx context.Context, name string, o client.Object) error {
	err := a.Cache.Get(ctx, client.ObjectKey{Name: name}, o)
	if apierrors.IsNotFound(err) {
		return a.Live.Get(ctx, client.ObjectKey{Name: name}, o)
	}
	return err
}

func isRace(err error) bool { return apierrors.IsConflict(err) }
