package migration

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// jobs is the work that takes longer than a pass may: at most one for each
// migration. What is done is marked on the servers, so a job that is lost with
// its process is begun again and finds that.
type jobs struct {
	mu      sync.Mutex
	running map[types.UID]*job
	wake    chan event.GenericEvent
	base    context.Context // ends with the controllers
	group   sync.WaitGroup
}

type job struct {
	name string
	done chan struct{}
	stop context.CancelFunc
	err  error
	any  any // what it found
}

func (j *jobs) begin(ctx context.Context) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.running, j.wake, j.base = map[types.UID]*job{}, make(chan event.GenericEvent, 64), ctx
}

// run starts work unless it runs; ok is true once, when it has ended.
func (j *jobs) run(m *v1alpha1.Migration, name string, work func(context.Context) (any, error)) (found any, ok bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if have := j.running[m.UID]; have != nil {
		select {
		case <-have.done:
			delete(j.running, m.UID)
			if have.name == name {
				return have.any, true, have.err
			}
		default:
			return nil, false, nil
		}
	}
	ctx, stop := context.WithCancel(j.base)
	next := &job{name: name, done: make(chan struct{}), stop: stop}
	j.running[m.UID] = next
	o := &v1alpha1.Migration{}
	o.Namespace, o.Name = m.Namespace, m.Name
	j.group.Go(func() {
		defer stop()
		next.any, next.err = work(ctx)
		close(next.done)
		select {
		case j.wake <- event.GenericEvent{Object: o}:
		case <-j.base.Done():
		}
	})
	return nil, false, nil
}

// end stops a migration's job and waits for it.
func (j *jobs) end(uid types.UID) {
	j.mu.Lock()
	have := j.running[uid]
	delete(j.running, uid)
	j.mu.Unlock()
	if have != nil {
		have.stop()
		<-have.done
	}
}
