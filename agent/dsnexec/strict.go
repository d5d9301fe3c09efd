package dsnexec

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The decoder of the YAML library quotes values in its errors, and those may be
// passwords: these functions walk its tree instead and tell keys only.
type (
	parser func(key string, n *yaml.Node) error
	fields map[string]parser
)

// mapping reads n by the parsers of its keys and refuses any other key.
func mapping(key string, n *yaml.Node, known fields) error {
	return entries(key, n, func(name, key string, n *yaml.Node) error {
		parse, ok := known[name]
		if !ok {
			return fmt.Errorf("%s: unknown key; there are %s", key, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		return parse(key, n)
	})
}

// entries calls each for every key of n, with the full path of that key. A
// null stands for an empty mapping.
func entries(key string, n *yaml.Node, each func(name, key string, n *yaml.Node) error) error {
	n = follow(n)
	if n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("%s: must be a mapping (line %d)", orFile(key), n.Line)
	}
	var errs []error
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i].Value
		path := strings.TrimPrefix(key+"."+name, ".")
		switch {
		case n.Content[i].Kind != yaml.ScalarNode || name == "":
			errs = append(errs, fmt.Errorf("%s: a key must be a word (line %d)", orFile(key), n.Content[i].Line))
		case seen[name]:
			errs = append(errs, fmt.Errorf("%s: is there twice (line %d)", path, n.Content[i].Line))
		default:
			errs = append(errs, each(name, path, n.Content[i+1]))
		}
		seen[name] = true
	}
	return errors.Join(errs...)
}

func items(each parser) parser {
	return func(key string, n *yaml.Node) error {
		n = follow(n)
		if n.Tag == "!!null" {
			return nil
		}
		if n.Kind != yaml.SequenceNode {
			return fmt.Errorf("%s: must be a list (line %d)", key, n.Line)
		}
		var errs []error
		for i, item := range n.Content {
			errs = append(errs, each(fmt.Sprintf("%s[%d]", key, i), item))
		}
		return errors.Join(errs...)
	}
}

// text takes any scalar as it is written.
func text(to *string) parser {
	return func(key string, n *yaml.Node) error {
		n = follow(n)
		if n.Kind != yaml.ScalarNode {
			return fmt.Errorf("%s: must be a text (line %d)", key, n.Line)
		}
		if n.Tag != "!!null" {
			*to = n.Value
		}
		return nil
	}
}

func truth(to *bool) parser {
	return func(key string, n *yaml.Node) error {
		if n = follow(n); n.Tag != "!!bool" || n.Decode(to) != nil {
			return fmt.Errorf("%s: must be true or false (line %d)", key, n.Line)
		}
		return nil
	}
}

func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func orFile(key string) string {
	if key == "" {
		return "the file"
	}
	return key
}
