package main

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// probeCmd is what a pod's probe executes: the kubelet itself cannot reach what
// listens on the pod's loopback.
type probeCmd struct {
	URL string `arg:"" help:"Address on loopback, such as http://127.0.0.1:9127/healthz."`
}

// Run succeeds when URL answers 200 within two seconds.
func (c *probeCmd) Run() error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" {
		return fmt.Errorf("probing: the address must be http://127.0.0.1:PORT/PATH")
	}
	if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("probing %s: only loopback is probed", u.Host)
	}
	client := &http.Client{Timeout: 2 * time.Second}
	response, err := client.Get(c.URL)
	if err != nil {
		return fmt.Errorf("probing %s: %w", u.Host, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("probing %s: it answers %s", u.Host, response.Status)
	}
	return nil
}
