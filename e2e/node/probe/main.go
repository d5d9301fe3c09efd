// Command probe is what the pods of the node's tests run.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	commands := map[string]func(context.Context, ...string) error{
		"serve":  serve,  // ANSWER: answers it over HTTP until told to end
		"get":    get,    // URL: prints its answer; with https, as the pod's ServiceAccount
		"lookup": lookup, // NAME: prints its addresses
		"write":  write,  // FILE TEXT
		"read":   read,   // FILE
	}
	if err := commands[os.Args[1]](context.Background(), os.Args[2:]...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, args ...string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, args[0])
	})}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	fmt.Println("serving")
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

func get(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	if err != nil {
		return err
	}
	client := http.DefaultClient
	if request.URL.Scheme == "https" {
		if client, err = asAccount(request); err != nil {
			return err
		}
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

func asAccount(request *http.Request) (*http.Client, error) {
	const account = "/var/run/secrets/kubernetes.io/serviceaccount/"
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}, nil
}

func lookup(ctx context.Context, args ...string) error {
	addresses, err := net.DefaultResolver.LookupHost(ctx, args[0])
	if err != nil {
		return err
	}
	fmt.Println(addresses)
	return nil
}

func write(_ context.Context, args ...string) error {
	return os.WriteFile(args[0], []byte(args[1]), 0o644)
}

func read(_ context.Context, args ...string) error {
	text, err := os.ReadFile(args[0])
	fmt.Print(string(text))
	return err
}
