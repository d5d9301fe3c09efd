package dsnexec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Config is what one entry of configs asks for.
type Config struct {
	Name        string
	Disabled    bool
	Sources     []Source
	Destination Destination
	Commands    []Command
}

// Source is a file that templates read from.
type Source struct {
	Driver   string // postgres, json, yaml or none
	Filename string // also its name in templates
}

// Destination is where commands go. DSN is a template.
type Destination struct{ Driver, DSN string }

// Command is a statement, program or format with its arguments; all are templates.
type Command struct {
	Text string
	Args []string
}

var (
	sourceDrivers      = []string{"postgres", "json", "yaml", "none"}
	destinationDrivers = []string{"postgres", "hotload", "shelldb", "fprintf"}
)

// ParseConfig reads a configuration file and returns its configs by name. All
// errors come together; each names its key, and none holds a value.
func ParseConfig(text []byte) ([]Config, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, more yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, errors.New("configs: missing; the file is empty")
	} else if err != nil {
		return nil, errors.New("the file is not YAML" + atLine(err))
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file must hold one YAML document")
	}
	found := map[string]Config{}
	err := mapping("", document.Content[0], fields{"configs": func(key string, n *yaml.Node) error {
		return entries(key, n, func(name, key string, n *yaml.Node) error {
			c, err := parseOne(name, key, n)
			found[name] = c
			return err
		})
	}})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errors.New("configs: missing; name at least one")
	}
	var configs []Config
	for _, name := range slices.Sorted(maps.Keys(found)) {
		configs = append(configs, found[name])
	}
	return configs, nil
}

func parseOne(name, key string, n *yaml.Node) (Config, error) {
	c := Config{Name: name}
	err := mapping(key, n, fields{
		"disabled": truth(&c.Disabled),
		"sources": items(func(key string, n *yaml.Node) error {
			s := Source{Driver: "none"}
			err := mapping(key, n, fields{"driver": text(&s.Driver), "filename": text(&s.Filename)})
			if s.Driver == "" {
				s.Driver = "none"
			}
			c.Sources = append(c.Sources, s)
			return errors.Join(err, oneOf(key+".driver", s.Driver, sourceDrivers), present(key+".filename", s.Filename))
		}),
		"destination": func(key string, n *yaml.Node) error {
			return mapping(key, n, fields{"driver": text(&c.Destination.Driver), "dsn": text(&c.Destination.DSN)})
		},
		"commands": items(func(key string, n *yaml.Node) error {
			var command Command
			err := mapping(key, n, fields{"command": text(&command.Text), "args": items(func(key string, n *yaml.Node) error {
				var arg string
				err := text(&arg)(key, n)
				command.Args = append(command.Args, arg)
				return err
			})})
			c.Commands = append(c.Commands, command)
			return errors.Join(err, present(key+".command", command.Text))
		}),
	})
	return c, errors.Join(err, c.check(key))
}

// check looks at what the fields mean together.
func (c Config) check(key string) error {
	errs := []error{oneOf(key+".destination.driver", c.Destination.Driver, destinationDrivers)}
	if len(c.Commands) == 0 {
		errs = append(errs, fmt.Errorf("%s.commands: missing; there is nothing to do", key))
	}
	seen := map[string]bool{}
	for i, s := range c.Sources {
		if seen[s.Filename] {
			errs = append(errs, fmt.Errorf("%s.sources[%d].filename: is a source already", key, i))
		}
		seen[s.Filename] = true
	}
	if c.Destination.Driver != "shelldb" {
		errs = append(errs, present(key+".destination.dsn", c.Destination.DSN))
	}
	for i, command := range c.Commands {
		errs = append(errs, checkTemplate(fmt.Sprintf("%s.commands[%d].command", key, i), command.Text))
		for j, arg := range command.Args {
			errs = append(errs, checkTemplate(fmt.Sprintf("%s.commands[%d].args[%d]", key, i, j), arg))
		}
	}
	return errors.Join(append(errs, checkTemplate(key+".destination.dsn", c.Destination.DSN))...)
}

// Choose applies the names to enable and disable to what the file says; a name
// in both is disabled. A name that no config has is an error.
func Choose(configs []Config, enable, disable []string) ([]Config, error) {
	for _, name := range append(slices.Clone(enable), disable...) {
		if !slices.ContainsFunc(configs, func(c Config) bool { return c.Name == name }) {
			return nil, fmt.Errorf("configs.%s: is not in the file", name)
		}
	}
	return slices.DeleteFunc(slices.Clone(configs), func(c Config) bool {
		return slices.Contains(disable, c.Name) || c.Disabled && !slices.Contains(enable, c.Name)
	}), nil
}

// filePath is the path of a file:// or fsnotify://postgres DSN; its parts are
// not shown in errors, since it came out of a template.
func filePath(dsn, scheme, host string) (string, error) {
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme != scheme || u.Host != host || !filepath.IsAbs(u.Path) {
		return "", fmt.Errorf("must be %s://%s/absolute/path", scheme, host)
	}
	return filepath.Clean(u.Path), nil
}

func present(key, value string) error {
	if value == "" {
		return fmt.Errorf("%s: missing", key)
	}
	return nil
}

func oneOf(key, value string, allowed []string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%s: must be one of %s", key, strings.Join(allowed, ", "))
}

var line = regexp.MustCompile(`line [0-9]+`)

// atLine takes only the place from a parser's error: the rest may quote a value.
func atLine(err error) string {
	if at := line.FindString(err.Error()); at != "" {
		return " (" + at + ")"
	}
	return ""
}
