// Command node runs the cluster of make cluster. Its commands init and serve
// are what runs inside the node's namespaces; e2e/cluster starts them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

type commands struct {
	Up     upCmd     `cmd:"" help:"Start the cluster in the background and wait until it is ready."`
	Down   downCmd   `cmd:"" help:"End the cluster and remove its state."`
	Status statusCmd `cmd:"" help:"Say where the cluster is; exit code 1 when it does not run."`
	Import importCmd `cmd:"" help:"Put the images of archives on the node."`
	Run    runCmd    `cmd:"" help:"Run the cluster in the foreground."`
	Init   initCmd   `cmd:"" hidden:""`
	Serve  serveCmd  `cmd:"" hidden:""`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	command := kong.Parse(&commands{}, kong.Name("node"), kong.Description("A one-node Kubernetes for tests."),
		kong.BindTo(ctx, (*context.Context)(nil)))
	return command.Run()
}

// stopwatch prints stages with the seconds since the first.
func stopwatch() func(string) {
	began := time.Now()
	return func(stage string) { fmt.Printf("%5.1f s  %s\n", time.Since(began).Seconds(), stage) }
}
