package local

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/berth-dev/berth/backend"
	"github.com/berth-dev/berth/process"
)

const superuser = "postgres"

// Names in a server's folder.
const (
	dataName     = "data"
	adminName    = "admin" // the superuser's password
	passwordName = "pwfile"
	logName      = "log"
)

// make runs initdb unless the record says that it once ran to its end. What an
// earlier, interrupted one left is made anew.
func (s *server) make(ctx context.Context) error {
	r := s.read()
	if r.Made {
		return s.checkData()
	}
	select {
	case s.b.making <- struct{}{}:
		defer func() { <-s.b.making }()
	case <-ctx.Done():
		return ctx.Err()
	}
	s.b.options.Log("server %s: making it with PostgreSQL %d.%d", s.id, r.Major, s.b.majors[r.Major])
	if err := s.emptyData(); err != nil {
		return err
	}
	if err := s.writePassword(); err != nil {
		return err
	}
	err := s.initdb(ctx, r.Major)
	if err := errors.Join(err, os.Remove(s.path(passwordName))); err != nil {
		return err
	}
	major := r.Major // of these data, whatever is asked for by now
	return s.save(func(r *record) { r.Made, r.Major = true, major })
}

// checkData keeps a server whose disk went away from being made anew, empty.
func (s *server) checkData() error {
	if _, err := os.Stat(s.path(dataName + "/PG_VERSION")); errors.Is(err, os.ErrNotExist) {
		return &finding{backend.Observed{Permanent: true, Reason: DataMissing,
			Message: "The server was made, and its data is not in " + s.path(dataName) + " any more. Put it back; it is not made anew."}}
	} else if err != nil {
		return fmt.Errorf("looking at data of server %s: %w", s.id, err)
	}
	return nil
}

func (s *server) emptyData() error {
	data := s.path(dataName)
	if err := os.RemoveAll(data); err != nil {
		return fmt.Errorf("removing half made data: %w", err)
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		return fmt.Errorf("making data folder: %w", err)
	}
	if err := s.b.account.give(data); err != nil {
		return fmt.Errorf("handing data folder over: %w", err)
	}
	return nil
}

// writePassword chooses the superuser's password, and lays a copy out for
// initdb, which runs as another account.
func (s *server) writePassword() error {
	password := []byte(rand.Text())
	if err := writeFile(s.path(adminName), password); err != nil {
		return fmt.Errorf("writing password: %w", err)
	}
	if err := writeFile(s.path(passwordName), password); err != nil {
		return fmt.Errorf("writing password: %w", err)
	}
	if err := s.b.account.give(s.path(passwordName)); err != nil {
		return fmt.Errorf("handing password over: %w", err)
	}
	return nil
}

func (s *server) initdb(ctx context.Context, major int) error {
	var out bytes.Buffer
	for _, locale := range []string{"C.UTF-8", "C"} {
		out.Reset()
		args := []string{
			"--pgdata=" + s.path(dataName), "--username=" + superuser, "--pwfile=" + s.path(passwordName), "--auth=scram-sha-256",
			"--encoding=UTF8", "--locale=" + locale, "--data-checksums", "--no-instructions",
		}
		if s.b.options.Settings["fsync"] == "off" {
			args = append(args, "--no-sync")
		}
		err := process.Run(ctx, process.Spec{Path: s.b.program(major, "initdb"), Args: args, Env: environment, Dir: s.dir, User: s.b.account.name, Log: &out})
		if err == nil || ctx.Err() != nil {
			return err
		}
		if !strings.Contains(out.String(), "invalid locale name") {
			break
		}
	}
	return &finding{backend.Observed{Reason: NotMade,
		Message: "The server cannot be made yet: initdb says: " + lastLine(out.String(), initErrors) + "."}}
}
