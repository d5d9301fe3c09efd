package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/berth-dev/berth/agent/dsnexec"
)

type dsnexecCmd struct {
	Run dsnexecRunCmd `cmd:"" help:"Run commands at start and each time their source files change, until told to stop."`
}

type dsnexecRunCmd struct {
	ConfigFile string   `short:"c" required:"" help:"File that says what to run." type:"path" placeholder:"FILE"`
	Enable     []string `short:"e" help:"Run this config though it is disabled." placeholder:"NAME"`
	Disable    []string `short:"d" help:"Do not run this config." placeholder:"NAME"`
	Address    string   `help:"Where /healthz and /metrics answer; loopback only." default:"127.0.0.1:9128"`
}

// Run ends with nil when it is told to stop.
func (c *dsnexecRunCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	listener, err := dsnexec.Listen(c.Address)
	if err != nil {
		return err
	}
	return dsnexec.Run(ctx, dsnexec.Options{
		ConfigFile: c.ConfigFile, Enable: c.Enable, Disable: c.Disable,
		Listener: listener, Log: slog.New(slog.NewJSONHandler(os.Stderr, nil)),
	})
}
