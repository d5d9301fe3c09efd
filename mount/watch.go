package mount

import (
	"context"
	"fmt"
	"time"

	"github.com/fsnotify/fsnotify"
)

// lookAgain is how often the folder is read although nothing was announced:
// some file systems announce nothing.
const lookAgain = 5 * time.Second

// Watch delivers the credential that is there, if any, and then each that
// differs from the one before. A receiver that is slow gets the newest alone.
// What cannot be read is not delivered; problem, unless nil, is told why, once
// for as long as the reason stays the same. The channel is closed when ctx ends.
func (d Dir) Watch(ctx context.Context, problem func(error)) <-chan Credential {
	if problem == nil {
		problem = func(error) {}
	}
	w := &watch{dir: d, out: make(chan Credential, 1), problem: problem}
	go w.run(ctx)
	return w.out
}

type watch struct {
	dir     Dir
	out     chan Credential
	problem func(error)

	last    *Credential
	trouble string
}

func (w *watch) run(ctx context.Context) {
	defer close(w.out)
	poll := time.NewTicker(lookAgain)
	defer poll.Stop()
	var events <-chan fsnotify.Event
	var failures <-chan error
	// Without a watcher (their number is limited on a machine) the poll serves alone.
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer func() { _ = watcher.Close() }()
		events, failures = watcher.Events, watcher.Errors
	}
	for {
		if watcher != nil {
			// Again each time: the folder may be new. One that is watched already stays so.
			_ = watcher.Add(string(w.dir))
		}
		w.look()
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		case <-events:
		case err := <-failures: // events were lost: look
			w.problem(fmt.Errorf("watching for a credential: %w", err))
		}
	}
}

func (w *watch) look() {
	credential, err := w.dir.Read()
	if err != nil {
		if err.Error() != w.trouble {
			w.trouble = err.Error()
			w.problem(err)
		}
		return
	}
	w.trouble = ""
	if w.last != nil && same(*w.last, credential) {
		return
	}
	w.last = &credential
	select {
	case <-w.out: // overtaken
	default:
	}
	w.out <- credential
}

func same(a, b Credential) bool {
	return a.URI() == b.URI() && string(a.RootCA) == string(b.RootCA)
}
