package rest

import (
	"encoding/base64"
	"slices"
	"strings"
)

// paging asks for a part of a list. Without a limit it is the whole.
type paging struct {
	Limit    int    `query:"limit" minimum:"0" maximum:"1000" doc:"How many at most; 0 is all"`
	Continue string `query:"continue" doc:"X-Continue of the page before"`
}

// page is a part of a list. Continue is empty on the last one.
type page[T any] struct {
	Continue string `header:"X-Continue"`
	Body     []T
}

// paged sorts by key, and goes on after the last key of the page before: what
// is made or deleted meanwhile moves nothing.
func paged[T any](all []T, in *paging, key func(T) string) *page[T] {
	slices.SortFunc(all, func(a, b T) int { return strings.Compare(key(a), key(b)) })
	if after, err := base64.RawURLEncoding.DecodeString(in.Continue); err == nil && len(after) > 0 {
		all = slices.DeleteFunc(all, func(x T) bool { return key(x) <= string(after) })
	}
	p := &page[T]{Body: all}
	if in.Limit > 0 && len(all) > in.Limit {
		p.Body = all[:in.Limit]
		p.Continue = base64.RawURLEncoding.EncodeToString([]byte(key(p.Body[in.Limit-1])))
	}
	if p.Body == nil {
		p.Body = []T{}
	}
	return p
}
