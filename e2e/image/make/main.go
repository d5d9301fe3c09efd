// Command make builds the images of berth and of the stories, without a daemon.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/berth-dev/berth/e2e/image"
	"github.com/berth-dev/berth/process"
)

func main() {
	var m maker
	flag.StringVar(&m.out, "out", "bin/images", "folder for the archives")
	flag.StringVar(&m.tag, "tag", "0.1.0", "tag of berth's image, and the version it tells")
	architectures := flag.String("architectures", runtime.GOARCH, "of berth's image, such as amd64,arm64")
	flag.BoolVar(&m.release, "release", false, "leave paths of this machine and symbols out of the programs")
	flag.BoolVar(&m.postgres, "postgres", false, "make the PostgreSQL images of the stories too, from bin/pg")
	flag.Parse()
	m.architectures = strings.Split(*architectures, ",")
	if err := m.run(); err != nil {
		fmt.Fprintln(os.Stderr, "make:", err)
		os.Exit(1)
	}
}

type maker struct {
	out, tag          string
	architectures     []string
	release, postgres bool
	scratch           string
	installed         *image.System
}

func (m *maker) run() (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := os.MkdirAll(m.out, 0o755); err != nil {
		return fmt.Errorf("making folder: %w", err)
	}
	if m.scratch, err = os.MkdirTemp("", "berth-image-"); err != nil {
		return fmt.Errorf("making folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(m.scratch)) }()
	if m.installed, err = image.Installed(ctx); err != nil {
		return err
	}
	if err := m.berth(ctx); err != nil || !m.postgres {
		return err
	}
	for _, major := range []string{"15", "17", "18"} {
		i, err := image.Postgres(m.installed, filepath.Join("bin/pg", major))
		if err != nil {
			return err
		}
		if err := m.write("postgres-"+major, "berth-e2e/postgres:"+major, i); err != nil {
			return err
		}
	}
	return nil
}

// berth makes berth's image for every architecture, and what each is made of.
func (m *maker) berth(ctx context.Context) error {
	name := "berth:" + m.tag
	var images []image.Image
	for _, architecture := range m.architectures {
		programs := filepath.Join(m.scratch, architecture)
		if err := m.compile(ctx, architecture, programs); err != nil {
			return err
		}
		system, err := m.system(ctx, architecture)
		if err != nil {
			return err
		}
		i, err := image.Berth(system, programs)
		if err != nil {
			return err
		}
		materials, err := i.Files.Materials(system)
		if err != nil {
			return err
		}
		bill, err := materials.SPDX(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(m.out, "berth-"+architecture+".spdx.json"), bill, 0o644); err != nil {
			return fmt.Errorf("writing the bill of materials: %w", err)
		}
		images = append(images, i)
	}
	return m.write("berth", name, images...)
}

// system is this machine for its own architecture, else packages of the other.
func (m *maker) system(ctx context.Context, architecture string) (*image.System, error) {
	if architecture == m.installed.Architecture {
		return m.installed, nil
	}
	return image.Fetch(ctx, architecture, filepath.Join(m.scratch, architecture+"-debian"), "pgbouncer", "ca-certificates")
}

func (m *maker) compile(ctx context.Context, architecture, to string) error {
	flags := []string{"build", "-buildvcs=false", "-o", to + "/"}
	link := "-X main.version=" + m.tag
	if m.release {
		flags, link = append(flags, "-trimpath"), link+" -s -w"
	}
	err := process.Run(ctx, process.Spec{
		Path: "go", Args: append(flags, "-ldflags", link, "./cmd/..."), Log: os.Stderr,
		Env: append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture),
	})
	if err != nil {
		return fmt.Errorf("compiling for %s: %w", architecture, err)
	}
	return nil
}

func (m *maker) write(file, name string, images ...image.Image) error {
	began := time.Now()
	path := filepath.Join(m.out, file+".tar")
	if err := image.Write(path, name, images...); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("looking at %s: %w", path, err)
	}
	fmt.Printf("%5.1f s  %s  %s  %d MB\n", time.Since(began).Seconds(), name, path, info.Size()>>20)
	return nil
}
