package s3

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

var errStall = errors.New("the server sends nothing any more")

// stallGuard gives a request up when its body does not move for Stall.
type stallGuard struct {
	io.ReadCloser
	timer  *time.Timer
	cancel context.CancelCauseFunc
	once   sync.Once
}

func watchStall(body io.ReadCloser, cancel context.CancelCauseFunc) io.ReadCloser {
	return &stallGuard{ReadCloser: body, cancel: cancel, timer: time.AfterFunc(Stall, func() { cancel(errStall) })}
}

// Read gives up when the server sends nothing for Stall.
func (g *stallGuard) Read(p []byte) (int, error) {
	g.timer.Reset(Stall)
	defer g.timer.Stop() // a slow reader is no stall of the server
	return g.ReadCloser.Read(p)
}

// Close ends the request. It may be repeated.
func (g *stallGuard) Close() error {
	var err error
	g.once.Do(func() {
		g.timer.Stop()
		err = g.ReadCloser.Close()
		g.cancel(nil)
	})
	return err
}
