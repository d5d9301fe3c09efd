package rest

import (
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// documented is the contract as the page of it shows it.
type documented struct {
	About, Version string
	Calls          []call
}

type call struct {
	Method, Path, Summary, Answers string
	Takes                          []string
}

func describe(spec *huma.OpenAPI) documented {
	d := documented{About: spec.Info.Description, Version: spec.OpenAPI}
	for path, item := range spec.Paths {
		for method, op := range map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "PUT": item.Put, "DELETE": item.Delete} {
			if op == nil {
				continue
			}
			c := call{Method: method, Path: path, Summary: op.Summary}
			for status := range op.Responses {
				if status != "default" {
					c.Answers = strings.TrimSpace(c.Answers + " " + status)
				}
			}
			for _, p := range op.Parameters {
				c.Takes = append(c.Takes, p.In+" "+p.Name)
			}
			if op.RequestBody != nil {
				for _, media := range op.RequestBody.Content {
					c.Takes = append(c.Takes, fields("", media.Schema, spec.Components.Schemas)...)
				}
			}
			d.Calls = append(d.Calls, c)
		}
	}
	slices.SortFunc(d.Calls, func(a, b call) int { return strings.Compare(a.Path+a.Method, b.Path+b.Method) })
	return d
}

// fields are the paths of a body's values.
func fields(at string, s *huma.Schema, known huma.Registry) (paths []string) {
	if s.Ref != "" {
		s = known.SchemaFromRef(s.Ref)
	}
	if len(s.Properties) == 0 {
		return []string{"body " + strings.TrimPrefix(at, ".") + " " + s.Type}
	}
	for name, property := range s.Properties {
		paths = append(paths, fields(at+"."+name, property, known)...)
	}
	slices.Sort(paths)
	return paths
}
