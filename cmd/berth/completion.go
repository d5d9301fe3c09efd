package main

import (
	"context"
	"fmt"
	"time"

	"github.com/alecthomas/kong"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// CompletionCmd prints the completion script of a shell.
type CompletionCmd struct {
	Shell string `arg:"" help:"bash, zsh or fish." enum:"bash,zsh,fish"`
}

// Help says where each shell reads the script from.
func (CompletionCmd) Help() string {
	return "  bash   source <(berth completion bash)\n" +
		"  zsh    source <(berth completion zsh)\n" +
		"  fish   berth completion fish > ~/.config/fish/completions/berth.fish"
}

// Run prints the script.
func (c *CompletionCmd) Run(k *kong.Context) error {
	script := map[string]func(*kong.Node) string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell]
	_, err := fmt.Fprint(k.Stdout, script(k.Model.Node))
	return err
}

// CompleteCmd prints names for the completion scripts.
type CompleteCmd struct {
	What string `arg:"" enum:"claims,roles"`
}

// completeWithin bounds how long a person's Tab key may hang.
const completeWithin = 2 * time.Second

// Run prints the names, and nothing when the cluster does not answer: a shell
// has no place for an error there.
func (c *CompleteCmd) Run(ctx context.Context, g *Globals, k *kong.Context) error {
	d, err := g.desk()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completeWithin)
	defer cancel()
	var names []string
	if c.What == "roles" {
		list := &v1alpha1.RoleClaimList{}
		err = d.api.List(ctx, list, d.within())
		for _, o := range list.Items {
			names = append(names, o.Name)
		}
	} else {
		list := &v1alpha1.DatabaseClaimList{}
		err = d.api.List(ctx, list, d.within())
		for _, o := range list.Items {
			names = append(names, o.Name)
		}
	}
	if err != nil {
		return nil
	}
	for _, name := range names {
		if _, err := fmt.Fprintln(k.Stdout, name); err != nil {
			return err
		}
	}
	return nil
}
