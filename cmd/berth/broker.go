package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/berth-dev/berth/broker"
	"github.com/berth-dev/berth/canopy"
)

// BrokerCmd hands out sessions for backups until it is told to stop.
type BrokerCmd struct {
	Address       string `help:"Where pods reach it; by TLS, unless on loopback." default:"127.0.0.1:9091"`
	Certificate   string `help:"Its certificate, PEM; read again at each connection." type:"path" placeholder:"FILE"`
	Key           string `help:"The certificate's key, PEM." type:"path" placeholder:"FILE"`
	CanopyURL     string `help:"The canopy service; without it no session is handed out." placeholder:"URL"`
	CanopyCA      string `name:"canopy-ca" help:"Authorities of the service, besides the system's." type:"path" placeholder:"FILE"`
	DeviceKeyFile string `help:"The EC P-256 key that this device is known by." type:"path" placeholder:"FILE"`
	SOCKS5        string `name:"socks5" help:"Proxy for hosts of a tailnet." placeholder:"socks5://HOST:PORT"`
}

// Run serves until ctx ends.
func (c *BrokerCmd) Run(ctx context.Context, g *Globals) error {
	config, err := g.Config()
	if err != nil {
		return err
	}
	api, err := newClient(config)
	if err != nil {
		return err
	}
	o := broker.Options{Identify: broker.Identify(api), Log: slog.New(slog.NewJSONHandler(os.Stderr, nil))}
	service, err := c.service()
	if err != nil {
		return err
	}
	if service != nil {
		o.Upstream = service.Credentials
	}
	listener, err := c.listen()
	if err != nil {
		return err
	}
	server := &http.Server{Handler: broker.New(o).Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = server.Shutdown(grace) // what is underway after that asks again
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", c.Address, err)
	}
	return nil
}

func (c *BrokerCmd) service() (*canopy.Client, error) {
	o := canopy.Options{BaseURL: c.CanopyURL, CAFile: c.CanopyCA, SOCKS5: c.SOCKS5}
	if c.DeviceKeyFile != "" {
		key, err := os.ReadFile(c.DeviceKeyFile)
		if err != nil {
			return nil, fmt.Errorf("reading the device key: %w", err)
		}
		o.DeviceKey = key
	}
	return canopy.New(o)
}

// listen speaks TLS unless nobody outside this machine can listen in.
func (c *BrokerCmd) listen() (net.Listener, error) {
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		return nil, fmt.Errorf("reading address %s: it must be host:port", c.Address)
	}
	ip := net.ParseIP(host)
	if c.Certificate == "" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("listening on %s: it is not on loopback, so --certificate and --key are needed", c.Address)
	}
	listener, err := net.Listen("tcp", c.Address)
	if err != nil || c.Certificate == "" {
		return listener, err
	}
	load := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		return &pair, err
	}
	if _, err := load(nil); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the certificate: %w", err), listener.Close())
	}
	return tls.NewListener(listener, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: load}), nil
}
