package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStartNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	bin, dir := t.TempDir(), filepath.Join(t.TempDir(), "state")
	for _, program := range programs {
		_, err := Start(t.Context(), Options{Dir: dir, Bin: bin})
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), program+" (run: make node-tools)") {
			t.Fatalf("without %s: %v", program, err)
		}
		file := filepath.Join(bin, program)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
}

func TestOutputPassesOnWholeLines(t *testing.T) {
	t.Parallel()
	var told []string
	o := &output{tell: func(line string) { told = append(told, line) }}
	for _, part := range []string{"starting et", "cd\nwaiting\nunfin", "ished"} {
		if _, err := o.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Join(told, "|") != "starting etcd|waiting" || o.end() != "waiting" {
		t.Errorf("told %q, last %q", told, o.end())
	}
}
