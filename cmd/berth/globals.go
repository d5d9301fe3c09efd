package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Globals are the flags of every command for people.
type Globals struct {
	// KUBECONFIG has no env tag: it may list several files, which only the
	// loading rules of kubectl know how to merge.
	Kubeconfig    string `help:"File with access to the cluster. Without it: $$KUBECONFIG, then berth dev's, then ~/.kube/config." type:"path" placeholder:"FILE"`
	Context       string `help:"Context of the kubeconfig." placeholder:"NAME"`
	Namespace     string `short:"n" help:"Namespace to look in." placeholder:"NAME"`
	AllNamespaces bool   `short:"A" help:"Look in all namespaces."`
	Output        string `short:"o" help:"How to print: table, json or yaml." enum:"table,json,yaml" default:"table"`
	Data          string `help:"Folder of berth dev." default:"./.berth" env:"BERTH_DATA" type:"path"`
}

// Client connects to the chosen cluster, and names the namespace to look in.
func (g *Globals) Client() (client.WithWatch, string, error) {
	config, err := g.Config()
	if err != nil {
		return nil, "", err
	}
	namespace, _, err := g.loader().Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("reading the kubeconfig: %w", err)
	}
	kinds, err := newScheme()
	if err != nil {
		return nil, "", err
	}
	config.WarningHandler = rest.NewWarningWriter(os.Stderr, rest.WarningWriterOptions{Deduplicate: true})
	c, err := client.NewWithWatch(config, client.Options{Scheme: kinds})
	if err != nil {
		return nil, "", fmt.Errorf("connecting to the cluster: %w", err)
	}
	return c, cmp.Or(g.Namespace, namespace), nil
}

// Config is the access to the chosen cluster; inside one, without a
// kubeconfig, the pod's own.
func (g *Globals) Config() (*rest.Config, error) {
	config, err := g.loader().ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, errors.New("no cluster is configured; start one with berth dev, or name a kubeconfig with --kubeconfig")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return config, nil
}

func (g *Globals) loader() clientcmd.ClientConfig {
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(g.rules(), &clientcmd.ConfigOverrides{CurrentContext: g.Context})
}

// rules prefers what was asked for, by flag or environment, to berth dev's
// cluster, and that to the person's usual one.
func (g *Globals) rules() *clientcmd.ClientConfigLoadingRules {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	switch {
	case g.Kubeconfig != "":
		rules.ExplicitPath = g.Kubeconfig
	case os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != "":
	default:
		local := filepath.Join(g.Data, "kubeconfig")
		if _, err := os.Stat(local); err == nil {
			rules.ExplicitPath = local
		}
	}
	return rules
}
