package postgres

import (
	"encoding/json"
	"strings"
	"time"
)

// Kinds of object a Marker can name.
const (
	DatabaseClaim = "DatabaseClaim"
	RoleClaim     = "RoleClaim"
)

const markerPrefix = "berth: "

// claimsComment is LIKE the marker of a claim's role; Comment writes the kind
// behind names, which hold no quotes.
const claimsComment = markerPrefix + `{%"kind":"DatabaseClaim"%`

// Marker says, in a comment beside the effect itself, for whom a database or a
// role exists.
type Marker struct {
	Cluster   string     `json:"cluster"`
	Claim     string     `json:"claim"` // namespace/name
	Kind      string     `json:"kind"`
	Retain    bool       `json:"retain,omitempty"` // outlives its claim
	Released  *time.Time `json:"released,omitempty"`
	DropAfter *time.Time `json:"dropAfter,omitempty"` // nil: kept for ever
}

// Comment is the text that goes to the server; times are kept to the second.
func (m Marker) Comment() string {
	m.Released, m.DropAfter = toSecond(m.Released), toSecond(m.DropAfter)
	text, err := json.Marshal(m)
	if err != nil { // only a year beyond 9999 gets here
		m.Released, m.DropAfter = nil, nil
		text, _ = json.Marshal(m)
	}
	return markerPrefix + string(text)
}

func toSecond(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	whole := t.UTC().Truncate(time.Second)
	return &whole
}

// ParseMarker reads a comment; false means that it is not one of ours.
func ParseMarker(comment string) (Marker, bool) {
	text, ok := strings.CutPrefix(comment, markerPrefix)
	if !ok {
		return Marker{}, false
	}
	var m Marker
	if err := json.Unmarshal([]byte(text), &m); err != nil || m.Cluster == "" || m.Claim == "" {
		return Marker{}, false
	}
	return m, true
}

// marks reports whether comment is a marker of the same claim, released or not.
func (m Marker) marks(comment string) bool {
	have, ok := ParseMarker(comment)
	return ok && have.Cluster == m.Cluster && have.Claim == m.Claim && have.Kind == m.Kind
}

// ownerOf names in words whom a comment gives a thing to.
func ownerOf(comment string) string {
	m, ok := ParseMarker(comment)
	if !ok {
		return "it carries no marker of berth"
	}
	return "it belongs to " + m.Kind + " " + m.Claim + " of cluster " + m.Cluster
}
