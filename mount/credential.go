// Package mount reads the credential that a Secret volume shows, for programs
// whose database password changes while they run.
//
// BeforeConnect gives a pgxpool the current login at each new connection, and
// Watch tells of a new one. It needs no Kubernetes client and no proxy. It does
// not end connections made with an earlier login: those go on until they are
// closed.
package mount

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/postgres"
)

var (
	// ErrMissing is in the chain when there is no credential to read.
	ErrMissing = errors.New("the credential is missing")
	// ErrMalformed is in the chain when what is there is no usable credential,
	// or only a part of one.
	ErrMalformed = errors.New("the credential is malformed")
)

// KeyCA is the key that may hold root certificates as PEM, by which the server
// is verified. Without it the system's roots count.
const KeyCA = "ca.crt"

// valueLimit bounds one key, in bytes.
const valueLimit = 64 << 10

// Dir is the folder at which a Secret is mounted.
type Dir string

// Credential is one state of the mounted Secret. Host, user, password and
// database are never empty. Printing it in any form never shows the password.
type Credential struct {
	postgres.Target
}

// Read reads the credential as it is now: all values are of one version of the
// Secret, also while the volume changes. It takes uri_dsn.txt, and the single
// keys where that is absent; where both are there they have to agree. Its
// error has ErrMissing or ErrMalformed in its chain and shows no value.
func (d Dir) Read() (Credential, error) {
	for {
		version, folder := d.version()
		credential, err := read(folder)
		// The kubelet removes an old version, key by key, once the link names the next one.
		if now, _ := d.version(); now == version {
			return credential, err
		}
	}
}

// version follows the link by which the kubelet publishes all keys at once; a
// folder without one is read as it is.
func (d Dir) version() (link, folder string) {
	link, err := os.Readlink(filepath.Join(string(d), "..data"))
	if err != nil {
		return "", string(d)
	}
	if filepath.IsAbs(link) {
		return link, link
	}
	return link, filepath.Join(string(d), link)
}

func read(folder string) (Credential, error) {
	values := map[string]string{}
	for _, key := range []string{"uri_dsn.txt", "hostname", "port", "database", "username", "password", "sslmode", KeyCA} {
		value, found, err := readKey(filepath.Join(folder, key))
		if err != nil {
			return Credential{}, fmt.Errorf("reading key %s: %w", key, err)
		}
		if found {
			values[key] = value
		}
	}
	target, err := parse(values)
	if err != nil {
		return Credential{}, err
	}
	if ca := values[KeyCA]; ca != "" {
		target.RootCA = []byte(ca)
		if _, err := target.ConnConfig(); err != nil {
			return Credential{}, fmt.Errorf("reading key %s: %w: it holds no PEM certificate", KeyCA, ErrMalformed)
		}
	}
	return Credential{target}, nil
}

func readKey(path string) (value string, found bool, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, valueLimit+1))
	if err != nil {
		return "", false, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if len(text) > valueLimit {
		return "", false, fmt.Errorf("%w: it is longer than 64 kB", ErrMalformed)
	}
	return string(text), true, nil
}

func parse(values map[string]string) (postgres.Target, error) {
	uri, found := values["uri_dsn.txt"]
	single, singles, err := fromKeys(values)
	if err != nil {
		return postgres.Target{}, err
	}
	target := single
	if found {
		if target, err = postgres.ParseDSN(strings.TrimSpace(uri)); err != nil {
			return postgres.Target{}, fmt.Errorf("reading key uri_dsn.txt: %w: %w", ErrMalformed, err)
		}
	} else if singles == 0 {
		return postgres.Target{}, fmt.Errorf("%w: there is neither uri_dsn.txt nor any single key", ErrMissing)
	}
	for _, part := range []struct{ what, value string }{
		{"host", target.Host}, {"user", target.User}, {"password", target.Password}, {"database", target.Database},
	} {
		if part.value == "" {
			return postgres.Target{}, fmt.Errorf("%w: it has no %s", ErrMalformed, part.what)
		}
	}
	if found {
		return target, agree(values, target, single)
	}
	// The same rules for host and sslmode as in a DSN.
	if _, err := postgres.ParseDSN(target.URI()); err != nil {
		return postgres.Target{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return target, nil
}

// fromKeys makes a target of the single keys, and says how many there are.
func fromKeys(values map[string]string) (t postgres.Target, keys int, err error) {
	t.Port = 5432
	for key, field := range map[string]*string{
		"hostname": &t.Host, "database": &t.Database, "username": &t.User, "password": &t.Password, "sslmode": &t.SSLMode,
	} {
		value, found := values[key]
		if found {
			*field = value
			keys++
		}
	}
	if text, found := values["port"]; found {
		port, err := strconv.ParseUint(strings.TrimSpace(text), 10, 16)
		if err != nil || port == 0 {
			return postgres.Target{}, 0, fmt.Errorf("reading key port: %w: it must be a number from 1 to 65535", ErrMalformed)
		}
		t.Port = uint16(port)
		keys++
	}
	return t, keys, nil
}

// agree refuses a folder whose files are being written one after the other:
// half a URI can look like a whole one.
func agree(values map[string]string, uri, single postgres.Target) error {
	for _, pair := range []struct {
		key  string
		same bool
	}{
		{"hostname", uri.Host == single.Host}, {"port", uri.Port == single.Port}, {"database", uri.Database == single.Database},
		{"username", uri.User == single.User}, {"password", uri.Password == single.Password}, {"sslmode", uri.SSLMode == single.SSLMode},
	} {
		if _, found := values[pair.key]; found && !pair.same {
			return fmt.Errorf("%w: the keys %s and uri_dsn.txt disagree", ErrMalformed, pair.key)
		}
	}
	return nil
}
