package process_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berth-dev/berth/process"
)

func TestRunCollectsOutput(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := process.Run(t.Context(), process.Spec{Path: "/bin/sh", Args: []string{"-c", "echo hello"}, Log: &out}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "hello\n" {
		t.Fatalf("output = %q", out.String())
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := process.Run(ctx, process.Spec{Path: "/bin/sleep", Args: []string{"60"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("err = %v", err)
	}
}

func TestStopKillsWhatIgnoresItsSignal(t *testing.T) {
	t.Parallel()
	p, err := process.Start(process.Spec{Path: "/bin/sh", Args: []string{"-c", "trap '' TERM; while :; do read -t 1 line < /dev/zero; done"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(20 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	default:
		t.Fatal("still running after Stop returned")
	}
}
