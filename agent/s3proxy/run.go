// Package s3proxy lets an S3 client that cannot renew its credentials work with
// sessions that expire: a proxy on loopback signs each request anew.
//
// It holds no object in memory, and reads none. Whoever reaches its loopback
// has the rights of the session, so it belongs into a pod of its own client.
package s3proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/berth-dev/berth/agent/s3"
)

// Options say what to stand before.
type Options struct {
	Listener  net.Listener // on loopback; closed at the end
	Upstream  *url.URL
	Region    string
	Transport http.RoundTripper
	Lease     *s3.Lease
	Grace     time.Duration // given to requests underway at the end
	Report    func(context.Context, s3.Totals) error
	Progress  func(context.Context, s3.Totals) error // every 30 s; nil: nobody asks
	Log       *slog.Logger
}

const (
	reportTimeout = 5 * time.Second
	progressEvery = 30 * time.Second
)

// Run serves until ctx ends, lets what is underway finish, and then reports
// the bytes once. A report that fails is logged and changes nothing.
func Run(ctx context.Context, o Options) error {
	p := &proxy{upstream: o.Upstream, region: o.Region, transport: o.Transport, lease: o.Lease}
	server := &http.Server{Handler: p, ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(o.Listener) }()
	err := o.follow(ctx, p, served)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.Grace)
	defer cancel()
	if server.Shutdown(grace) != nil {
		_ = server.Close() // the time is up
	}
	if o.Report != nil {
		o.tell(ctx, "traffic", o.Report, p.traffic.Totals())
	}
	return err
}

// follow returns when ctx has ended, or the listener fails.
func (o *Options) follow(ctx context.Context, p *proxy, served <-chan error) error {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			return fmt.Errorf("serving %s: %w", o.Listener.Addr(), err)
		case <-tick.C:
			if o.Progress != nil {
				o.tell(ctx, "progress", o.Progress, p.traffic.Totals())
			}
		}
	}
}

func (o *Options) tell(ctx context.Context, what string, report func(context.Context, s3.Totals) error, totals s3.Totals) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer cancel()
	if err := report(ctx, totals); err != nil {
		o.Log.Warn("report not delivered", "what", what, "problem", err.Error())
	}
}

// Listen opens address, which must be on loopback. An empty one is a free port
// of [::1], or of 127.0.0.1 where there is no IPv6.
func Listen(address string) (net.Listener, error) {
	if address == "" {
		if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
			return l, nil
		}
		address = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("reading address %s: it must be host:port", address)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("listening on %s: only loopback is allowed", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", address, errors.Unwrap(err))
	}
	return l, nil
}

// WritePort writes the listener's port to file, in decimal, all at once.
func WritePort(file string, l net.Listener) error {
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return errors.New("writing the port: the listener has none")
	}
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file+".tmp", []byte(strconv.Itoa(tcp.Port)), 0o644)
	}
	if err == nil {
		err = os.Rename(file+".tmp", file)
	}
	if err != nil {
		return fmt.Errorf("writing the port: %w", err)
	}
	return nil
}
