package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// look reports what is seen now, and whether that is what was waited for.
type look func(ctx context.Context) (seen string, done bool, err error)

// await looks now and after each change until done, showing what is seen. A
// timeout of 0 never ends; the error of one that ends tells what was seen last.
func (d *desk) await(ctx context.Context, timeout time.Duration, changed <-chan struct{}, look look) error {
	within, cancel := context.WithCancel(ctx)
	if timeout > 0 {
		within, cancel = context.WithTimeout(ctx, timeout)
	}
	defer cancel()
	p := progress{terminal: d.terminal, began: time.Now()}
	defer p.end()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		seen, done, err := look(within)
		if within.Err() == nil && (done || err != nil) {
			return err
		}
		if err == nil {
			p.show(seen)
		}
		if !p.idle(within, changed, tick.C) {
			return gaveUp(ctx, timeout, p.seen)
		}
	}
}

func gaveUp(ctx context.Context, timeout time.Duration, seen string) error {
	if ctx.Err() != nil {
		return errInterrupted
	}
	if seen == "" {
		return fmt.Errorf("the cluster did not answer within %s; try a longer --timeout", timeout)
	}
	return fmt.Errorf("not done after %s, and berth get -w follows what comes: %s", timeout, seen)
}

// progress shows one line: rewritten every second on a terminal, else written
// when it changes.
type progress struct {
	*terminal
	began time.Time
	seen  string
}

// idle returns true after a change, and false when ctx ends.
func (p *progress) idle(ctx context.Context, changed <-chan struct{}, tick <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-changed:
			return ctx.Err() == nil
		case <-tick:
			if p.live {
				p.show(p.seen)
			}
		}
	}
}

func (p *progress) show(seen string) {
	switch seconds := time.Since(p.began).Seconds(); {
	case p.live:
		line := []rune(fmt.Sprintf("%3.0f s  %s", seconds, seen))
		_, _ = fmt.Fprintf(p.err, "\r\x1b[K%s", string(line[:min(len(line), max(1, p.width-1))]))
	case seen != p.seen:
		_, _ = fmt.Fprintf(p.err, "%3.0f s  %s\n", seconds, seen)
	}
	p.seen = seen
}

func (p *progress) end() {
	if p.live && p.seen != "" {
		_, _ = fmt.Fprint(p.err, "\r\x1b[K")
	}
}

// rewatch is how soon a watch that ended is begun again.
const rewatch = time.Second

// changes tells that objects of the lists may have changed. It carries no
// data: whoever is told looks. Without the right to watch it tells every second.
func changes(ctx context.Context, api client.WithWatch, options []client.ListOption, lists ...client.ObjectList) <-chan struct{} {
	told := make(chan struct{}, 1)
	for _, list := range lists {
		go func() {
			for ctx.Err() == nil {
				watchOnce(ctx, api, list, options, told)
				tell(told)
				pause := time.NewTimer(rewatch)
				select {
				case <-ctx.Done():
				case <-pause.C:
				}
				pause.Stop()
			}
		}()
	}
	return told
}

func watchOnce(ctx context.Context, api client.WithWatch, list client.ObjectList, options []client.ListOption, told chan<- struct{}) {
	w, err := api.Watch(ctx, list, options...)
	if err != nil {
		return
	}
	defer w.Stop()
	for range w.ResultChan() {
		tell(told)
	}
}

func tell(told chan<- struct{}) {
	select {
	case told <- struct{}{}:
	default:
	}
}

// interrupted makes the end of a command by a signal tell itself from a failure.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	return err
}
