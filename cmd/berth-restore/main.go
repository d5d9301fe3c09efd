// Command berth-restore brings a PostgreSQL up from a kopia snapshot and says
// whether the backup is good. It links kopia, and no Kubernetes client.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/berth-dev/berth/agent/restore"
)

var version = "development" // set when a release is built

// memoryLimit has the collector work harder before a pod's limit is reached.
const memoryLimit = 320 << 20

// progressEvery is how often a line says how far it has come.
const progressEvery = 5 * time.Second

// Exit codes besides 0, which is any verdict.
const (
	codeNoVerdict = 3 // nothing is known of the backup; another run may find out
	codePermanent = 4 // nor will another run, until a person changes something
)

func main() {
	var command struct {
		Job     string           `required:"" type:"path" help:"File that says what to restore."`
		Version kong.VersionFlag `help:"Print the version."`
	}
	k := kong.Parse(&command, kong.Name("berth-restore"), kong.UsageOnError(), kong.Vars{"version": "berth-restore " + version},
		kong.Description("Restore a PostgreSQL from a kopia snapshot, and judge the backup. The last line it prints is the result."))
	debug.SetMemoryLimit(memoryLimit)
	code, err := carryOut(command.Job)
	k.FatalIfErrorf(err)
	os.Exit(code)
}

// carryOut runs until the job is done, or SIGTERM or SIGINT ends it.
func carryOut(file string) (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	job, err := restore.ReadJob(file)
	if err != nil {
		return 0, err
	}
	result, err := restore.Run(ctx, job, reporter())
	if err != nil {
		return 0, err
	}
	line(result)
	switch {
	case result.Verdict != "":
		return 0, nil
	case result.Retry:
		return codeNoVerdict, nil
	}
	return codePermanent, nil
}

// reporter prints each new stage, and how far the present one has come.
func reporter() func(restore.Progress) {
	var mu sync.Mutex
	var stage string
	var last time.Time
	return func(p restore.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); p.Stage != stage || now.Sub(last) >= progressEvery {
			stage, last = p.Stage, now
			line(p)
		}
	}
}

func line(value any) {
	text, err := json.Marshal(value)
	if err != nil {
		text = []byte(err.Error())
	}
	fmt.Println(string(text))
}
