package dsnexec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/postgres"
)

// largest is how much of a file is read: a Secret holds no more.
const largest = 1 << 20

// snapshot reads files so that those of one mounted Secret are of one version:
// it remembers, folder by folder, where ..data pointed at its first look.
type snapshot map[string]string

func (s snapshot) read(name string) ([]byte, error) {
	folder, file := filepath.Split(name)
	at, known := s[folder]
	if !known {
		at = folder
		if version, err := os.Readlink(filepath.Join(folder, "..data")); err == nil {
			at = filepath.Join(folder, version)
		}
		s[folder] = at
	}
	f, err := os.Open(filepath.Join(at, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not there yet: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, errors.Unwrap(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, largest+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, errors.Unwrap(err))
	}
	if len(data) > largest {
		return nil, fmt.Errorf("%s is larger than 1 MiB", name)
	}
	return data, nil
}

// authority is the ca.crt beside name, if there is one.
func (s snapshot) authority(name string) []byte {
	pem, err := s.read(filepath.Join(filepath.Dir(name), "ca.crt"))
	if err != nil {
		return nil
	}
	return pem
}

// values are what templates see of the source, and secrets what of it must
// never be shown. Errors hold no part of the file.
func (s Source) values(from snapshot) (values map[string]any, secrets []string, err error) {
	data, err := from.read(s.Filename)
	if err != nil {
		return nil, nil, err
	}
	raw := strings.TrimSpace(string(data))
	secrets = append(strings.Split(raw, "\n"), raw)
	switch s.Driver {
	case "postgres":
		t, err := postgres.ParseDSN(raw)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", s.Filename, err)
		}
		values = map[string]any{
			"host": t.Host, "port": strconv.Itoa(int(t.Port)), "user": t.User,
			"password": t.Password, "dbname": t.Database, "sslmode": t.SSLMode,
		}
		secrets = append(secrets, t.Password)
	case "json":
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.UseNumber() // a large number stays as it is written
		if decoder.Decode(&values) != nil || values == nil {
			return nil, nil, fmt.Errorf("%s is not a JSON object", s.Filename)
		}
	case "yaml":
		if err := yaml.Unmarshal(data, &values); err != nil || values == nil {
			return nil, nil, fmt.Errorf("%s is not a YAML mapping", s.Filename)
		}
	default:
		values = map[string]any{}
	}
	if s.Driver != "postgres" {
		secrets = append(secrets, leaves(values)...)
	}
	values["raw_dsn"] = raw
	return values, secrets, nil
}

// leaves are all texts and numbers in a tree.
func leaves(v any) (found []string) {
	switch v := v.(type) {
	case map[string]any:
		for _, inner := range v {
			found = append(found, leaves(inner)...)
		}
	case map[any]any:
		for _, inner := range v {
			found = append(found, leaves(inner)...)
		}
	case []any:
		for _, inner := range v {
			found = append(found, leaves(inner)...)
		}
	case bool, nil:
	default:
		found = append(found, fmt.Sprint(v))
	}
	return found
}
