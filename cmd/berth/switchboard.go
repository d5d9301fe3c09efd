package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/berth-dev/berth/switchboard"
	"github.com/berth-dev/berth/webhook"
)

// SwitchboardFlags say where proxies reach the leader.
type SwitchboardFlags struct {
	SwitchboardAddress  string `help:"Where the leader listens for proxies, such as :9444; default: nowhere." placeholder:"ADDRESS"`
	SwitchboardEndpoint net.IP `help:"This pod's IP. The leader has the Service berth-switchboard lead to it." env:"POD_IP" placeholder:"IP"`
}

// add serves a switchboard while mgr leads, and returns its board: nil without
// an address.
func (f SwitchboardFlags) add(mgr ctrl.Manager, config *rest.Config) (*switchboard.Board, error) {
	if f.SwitchboardAddress == "" {
		return nil, nil
	}
	api, err := newClient(config)
	if err != nil {
		return nil, err
	}
	if host, _, _ := net.SplitHostPort(f.SwitchboardAddress); f.SwitchboardEndpoint == nil && !net.ParseIP(host).IsLoopback() {
		return nil, errors.New("--switchboard-address: proxies reach another address than loopback by a Service; give --switchboard-endpoint")
	}
	board := switchboard.New(slog.Default())
	return board, mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		listener, err := net.Listen("tcp", f.SwitchboardAddress)
		if err != nil {
			return fmt.Errorf("listening for proxies: %w", err)
		}
		o := switchboard.Options{
			Board: board, API: api, Listener: listener, Namespace: webhook.Namespace, Endpoint: f.SwitchboardEndpoint, Log: slog.Default(),
		}
		if f.SwitchboardEndpoint != nil {
			_, port, _ := net.SplitHostPort(listener.Addr().String()) // as net writes it
			o.Address = net.JoinHostPort(switchboard.Service+"."+webhook.Namespace+".svc", port)
		}
		return switchboard.Serve(ctx, o)
	}))
}
