// Command berth gives every tenant a database: the controllers, the local
// control plane for development, and the commands for people.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/berth-dev/berth/cloud"
	"github.com/berth-dev/berth/step"
)

// commands is the whole grammar; each command says what it does by --help.
type commands struct {
	Globals

	Get        GetCmd        `cmd:"" help:"Show claims as a tree: server, database, logins, Secret, and why something is not ready."`
	Plan       PlanCmd       `cmd:"" help:"Show the SQL, objects and restarts that a manifest would cause, and do nothing."`
	Psql       PsqlCmd       `cmd:"" help:"Open psql on a claim's database with its own login."`
	Rotate     RotateCmd     `cmd:"" help:"Replace a claim's credential now, without a failed login."`
	Revoke     RevokeCmd     `cmd:"" help:"Take a leaked credential away at once and end its sessions."`
	Migrate    MigrateCmd    `cmd:"" help:"Move a claim's database to another PostgreSQL version while it is used."`
	Rollback   RollbackCmd   `cmd:"" help:"Go back to the server that a claim's database was moved from."`
	Events     EventsCmd     `cmd:"" help:"Show what happened to claims, oldest first."`
	Dev        DevCmd        `cmd:"" help:"Run everything on this machine: a Kubernetes API, PostgreSQL and the controllers."`
	Demo       DemoCmd       `cmd:"" help:"Take a tour on a fresh local control plane, and measure it."`
	Controller ControllerCmd `cmd:"" help:"Run the controllers of a cluster."`
	API        APICmd        `cmd:"" name:"api" help:"Serve the REST API of a cluster: organisations and their warehouses."`
	Broker     BrokerCmd     `cmd:"" help:"Hand out sessions for backups to the pods that restore them."`
	Webhook    WebhookCmd    `cmd:"" help:"Put sidecars into the pods of a cluster that ask for them."`
	Completion CompletionCmd `cmd:"" help:"Print the completion script of a shell."`
	Version    VersionCmd    `cmd:"" help:"Print the version."`
	Complete   CompleteCmd   `cmd:"" hidden:""`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	step.Register(metrics.Registry)
	cloud.Register(metrics.Registry)
	var c commands
	k := kong.Parse(&c, kong.Name(programName(os.Args[0])), kong.UsageOnError(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Description("berth gives every tenant a database."), kong.BindTo(ctx, (*context.Context)(nil)))
	k.FatalIfErrorf(k.Run(&c.Globals))
}
