// Command berth-agent is what berth runs beside a tenant's program. It links
// no Kubernetes client.
package main

import (
	"fmt"

	"github.com/alecthomas/kong"
)

var version = "development" // set when a release is built

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run() error {
	_, err := fmt.Println("berth-agent " + version)
	return err
}

func main() {
	var commands struct {
		Dbproxy dbproxyCmd `cmd:"" help:"Keep a pgbouncer on the current credential of a mounted Secret."`
		Dsnexec dsnexecCmd `cmd:"" help:"Run commands each time a credential file changes."`
		Probe   probeCmd   `cmd:"" help:"Ask a program of this pod whether it is well."`
		S3proxy s3proxyCmd `cmd:"" name:"s3proxy" help:"Sign S3 requests of a client beside it anew, with sessions that expire."`
		Version versionCmd `cmd:"" help:"Print the version."`
	}
	k := kong.Parse(&commands, kong.Name("berth-agent"), kong.UsageOnError(),
		kong.Description("What berth runs beside a tenant's program."))
	k.FatalIfErrorf(k.Run())
}
