package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/berth-dev/berth/agent/s3"
	"github.com/berth-dev/berth/agent/s3proxy"
	"github.com/berth-dev/berth/process"
)

type s3proxyCmd struct {
	BrokerURL   string        `env:"BERTH_BROKER_URL" help:"The broker of sessions; https, or http on loopback."`
	BrokerCA    string        `name:"broker-ca" env:"BERTH_BROKER_CA" type:"path" help:"Authorities of the broker, beside the system's."`
	TokenFile   string        `env:"BERTH_TOKEN_FILE" type:"path" help:"Token that the broker asks for."`
	Group       string        `env:"BERTH_GROUP" help:"Whose backups."`
	Type        string        `env:"BERTH_TYPE" help:"Which of its backups."`
	RunID       string        `env:"BERTH_RUN_ID" help:"Names the run in what is reported."`
	Region      string        `env:"BERTH_REGION" help:"The bucket's region."`
	Endpoint    string        `env:"BERTH_S3_UPSTREAM" help:"S3 other than Amazon's; https, or http on loopback."`
	EndpointCA  string        `name:"endpoint-ca" env:"BERTH_S3_CA" type:"path" help:"Authorities of the endpoint, beside the system's."`
	StatsURL    string        `env:"BERTH_STATS_URL" help:"Receives the count of bytes, once, at the end."`
	ProgressURL string        `env:"BERTH_PROGRESS_URL" help:"Receives the count of bytes every 30 s; needs a run id."`
	PortFile    string        `env:"BERTH_PROXY_PORT_FILE" default:"/var/run/berth/proxy-port" help:"Is given the port once the proxy listens."`
	Listen      string        `help:"HOST:PORT on loopback; a free port of [::1], else of 127.0.0.1, when empty."`
	Grace       time.Duration `default:"15s" help:"Time for requests underway at the end."`
	Command     []string      `arg:"" optional:"" help:"Client to run; the proxy ends with it, and with its exit code."`
}

// exit ends the program with its code.
type exit struct {
	code int
	text string
}

func (e exit) Error() string { return e.text }

// ExitCode is what the program ends with.
func (e exit) ExitCode() int { return e.code }

// Run serves until SIGTERM or SIGINT, or until the command ends.
func (c *s3proxyCmd) Run() error {
	for _, need := range []struct{ name, value string }{
		{"BERTH_BROKER_URL", c.BrokerURL}, {"BERTH_GROUP", c.Group}, {"BERTH_TYPE", c.Type},
		{"BERTH_REGION", c.Region}, {"BERTH_STATS_URL", c.StatsURL},
	} {
		if need.value == "" {
			return exit{2, "s3proxy: " + need.name + " not set"}
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := c.options()
	if err != nil {
		return err
	}
	if err := s3proxy.WritePort(c.PortFile, o.Listener); err != nil {
		return errors.Join(err, o.Listener.Close())
	}
	if len(c.Command) == 0 {
		return s3proxy.Run(ctx, o)
	}
	return c.runWith(ctx, o)
}

func (c *s3proxyCmd) options() (s3proxy.Options, error) {
	upstream, err := s3.Endpoint(c.Endpoint, c.Region, false)
	if err != nil {
		return s3proxy.Options{}, err
	}
	transport, err := s3.Transport(c.EndpointCA)
	if err != nil {
		return s3proxy.Options{}, err
	}
	broker := &s3.Broker{URL: c.BrokerURL, CAFile: c.BrokerCA, TokenFile: c.TokenFile, Group: c.Group, Type: c.Type, RunID: c.RunID}
	if err := broker.Open(); err != nil {
		return s3proxy.Options{}, err
	}
	listener, err := s3proxy.Listen(c.Listen)
	if err != nil {
		return s3proxy.Options{}, err
	}
	o := s3proxy.Options{
		Listener: listener, Upstream: upstream, Region: c.Region, Transport: transport, Lease: s3.NewLease(broker.Keys),
		Grace: c.Grace, Log: slog.New(slog.NewJSONHandler(os.Stderr, nil)),
		Report: func(ctx context.Context, t s3.Totals) error {
			_, err := broker.Post(ctx, c.StatsURL, t, 5*time.Second)
			return err
		},
	}
	if c.ProgressURL != "" && c.RunID != "" {
		o.Progress = func(ctx context.Context, t s3.Totals) error {
			_, err := broker.Post(ctx, c.ProgressURL, struct {
				RunID   string `json:"run_id"`
				Type    string `json:"type"`
				Purpose string `json:"purpose"`
				s3.Totals
			}{c.RunID, c.Type, "restore", t}, 5*time.Second)
			return err
		}
	}
	return o, nil
}

// runWith serves for as long as the command runs.
func (c *s3proxyCmd) runWith(ctx context.Context, o s3proxy.Options) error {
	path, err := exec.LookPath(c.Command[0])
	if err != nil {
		return errors.Join(fmt.Errorf("finding the command: %w", err), o.Listener.Close())
	}
	client, err := process.Start(process.Spec{
		Path: path, Args: c.Command[1:], Env: s3proxy.Environment(os.Environ(), o.Listener.Addr().String()), Log: os.Stdout,
	})
	if err != nil {
		return errors.Join(err, o.Listener.Close())
	}
	// The client ends before the proxy does: it may have something to finish.
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-client.Done():
		case <-ctx.Done():
			_ = client.Stop(c.Grace) // Run's end stops it again
		}
	}()
	err = errors.Join(s3proxy.Run(serving, o), client.Stop(c.Grace))
	var ended *exec.ExitError
	if errors.As(client.Err(), &ended) && err == nil {
		return exit{max(ended.ExitCode(), 1), "s3proxy: the command ended with " + ended.String()}
	}
	return errors.Join(err, client.Err())
}
