package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/berth-dev/berth/agent/dbproxy"
)

type dbproxyCmd struct {
	dbproxy.Options
}

// Run serves until SIGTERM or SIGINT, and ends with code 0 once it has drained.
func (c dbproxyCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// It computes next to nothing, and stands in every pod. The Go runtime takes
	// memory for each core it may use: on a node of 64, two megabytes.
	debug.SetGCPercent(25)
	runtime.GOMAXPROCS(2)
	c.Revision = version
	return dbproxy.Run(ctx, c.Options, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}
