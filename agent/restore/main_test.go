package restore_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/berth-dev/berth/agent/restore"
	"github.com/berth-dev/berth/internal/testkit"
)

// asWorker in the environment makes this program the worker of that job file,
// so that a test can kill one.
const asWorker = "BERTH_TEST_JOB"

func TestMain(m *testing.M) {
	if file := os.Getenv(asWorker); file != "" {
		os.Exit(work(file))
	}
	testkit.Main(m, removeOrigins)
}

func work(file string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	job, err := restore.ReadJob(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if _, err := restore.Run(ctx, job, func(restore.Progress) {}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
