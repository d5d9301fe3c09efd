// Package switchboard knows the proxies of every claim: which login each uses,
// and how to hold, pause, move and resume all proxies of a claim as one fenced
// operation with a budget. It lets a proxy in by its pod's token alone.
//
// It keeps everything in memory: proxies come back to the next leader and say
// what they use. It fences no server and sees no query.
package switchboard

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/switchboard/wire"
)

const (
	// grace is how long a proxy whose stream broke still counts.
	grace = 15 * time.Second
	// troubleTime is how long a proxy counts as troubled after it said so; it
	// says so again while it is.
	troubleTime = 10 * time.Minute
	// coalesce is the shortest time between two wakes for one claim.
	coalesce = time.Second
	// queue is how many directives may wait for a stream; an operation has five.
	queue = 16
)

// Claim names a DatabaseClaim or a RoleClaim; Kind is naming.ClaimKind or naming.RoleKind.
type Claim struct {
	Kind string
	client.ObjectKey
}

// String is kind namespace/name.
func (c Claim) String() string { return c.Kind + " " + c.ObjectKey.String() }

// Board is all that is known of proxies. It is safe for concurrent use, and no
// call on it waits for a proxy but those of an Operation for their own.
type Board struct {
	log *slog.Logger

	mu        sync.Mutex
	rooms     map[Claim]*room
	sessions  map[string]*session // by id
	changed   map[Claim]bool
	dirty     chan struct{}
	listeners []func(kind string, object client.ObjectKey)
}

// New makes a board that knows nobody yet.
func New(log *slog.Logger) *Board {
	return &Board{
		log: log, rooms: map[Claim]*room{}, sessions: map[string]*session{},
		changed: map[Claim]bool{}, dirty: make(chan struct{}, 1),
	}
}

// room is what belongs to one claim.
type room struct {
	sessions  map[string]*session // by pod uid
	operation *Operation
	ending    *Operation // the last one, while it waits for answers
	top       uint64     // highest generation that is known of
	follow    *following
}

// following is where proxies belong that missed an operation.
type following struct {
	generation uint64
	target     wire.Target
	until      time.Time
}

// session is one proxy, also for a while after its stream broke.
type session struct {
	id       string
	claim    Claim
	who      Identity
	pod      string // as people know it
	sidecars []credential.Sidecar
	usage    wire.Usage
	trouble  string    // what it told of last, since its last usage
	told     time.Time // when
	out      chan wire.Directive
	ended    chan struct{} // closed when the stream has to end
	away     time.Time     // zero while there is a stream
}

// send never waits: a stream that is that far behind is broken.
func (s *session) send(d wire.Directive) {
	select {
	case s.out <- d:
	default:
		s.end()
	}
}

func (s *session) end() {
	select {
	case <-s.ended:
	default:
		close(s.ended)
	}
}

func (b *Board) room(c Claim) *room {
	r := b.rooms[c]
	if r == nil {
		r = &room{sessions: map[string]*session{}}
		b.rooms[c] = r
	}
	return r
}

// join lets a proxy in; an earlier stream of the same pod ends. What it has to
// do at once waits in its queue.
func (b *Board) join(s *session, generation uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.room(s.claim)
	if old := r.sessions[s.who.UID]; old != nil {
		old.end()
		delete(b.sessions, old.id)
	}
	r.sessions[s.who.UID], b.sessions[s.id] = s, s
	r.top = max(r.top, generation)
	switch {
	case r.operation != nil && generation > r.operation.order.Generation:
		r.operation.fail(errSuperseded)
	case r.operation != nil:
		r.operation.admit(s)
	}
	b.steer(r, s)
	b.note(s.claim)
}

// steer sends a proxy to where the last operation moved its claim, unless it is
// there.
func (b *Board) steer(r *room, s *session) {
	if f := r.follow; f != nil && r.operation == nil && time.Now().Before(f.until) && s.usage.Server != f.target.Server() {
		s.send(wire.Directive{Verb: wire.Follow, Generation: f.generation, Target: &f.target})
	}
}

// leave marks the end of a stream. The proxy is forgotten when it is not back in time.
func (b *Board) leave(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.end()
	s.away = time.Now()
}

// forget drops a proxy that is gone, if it is still this one.
func (b *Board) forget(s *session) {
	r := b.rooms[s.claim]
	if r == nil || r.sessions[s.who.UID] != s {
		return
	}
	delete(r.sessions, s.who.UID)
	delete(b.sessions, s.id)
	if r.operation != nil {
		r.operation.dismiss(s)
	}
	b.note(s.claim) // sweep drops a room that is empty
}

// session finds one by its id.
func (b *Board) session(id string) *session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions[id]
}

// report takes what a proxy tells.
func (b *Board) report(s *session, told wire.Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if told.Usage != (wire.Usage{}) && (told.Usage != s.usage || s.trouble != "") {
		s.usage, s.trouble = told.Usage, "" // it moved on
		b.note(s.claim)
	}
	if told.Trouble != "" {
		b.log.Warn("a proxy has trouble", "claim", s.claim.String(), "pod", s.pod, "trouble", short(told.Trouble))
		s.trouble, s.told = short(told.Trouble), time.Now()
		b.note(s.claim)
	}
	if r := b.rooms[s.claim]; told.Outcome != nil && r != nil {
		for _, o := range []*Operation{r.operation, r.ending} {
			if o != nil {
				o.answered(s, *told.Outcome)
			}
		}
		if verb := told.Outcome.Verb; verb == wire.Expired || verb == wire.Resume && told.Outcome.Refusal != "" {
			b.steer(r, s)
		}
	}
	if told.Leaving {
		b.forget(s)
	}
}

// short bounds what a tenant's pod tells.
func short(text string) string { return strings.ToValidUTF8(text[:min(len(text), 300)], "") }

// note remembers that a claim's readers changed.
func (b *Board) note(c Claim) {
	b.changed[c] = true
	select {
	case b.dirty <- struct{}{}:
	default:
	}
}

// Readers implements credential.Readers.
func (b *Board) Readers(kind string, object client.ObjectKey) []credential.Reader {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.rooms[Claim{kind, object}]
	if r == nil {
		return nil
	}
	var out []credential.Reader
	for _, s := range r.sessions {
		out = append(out, credential.Reader{Pod: s.pod, Login: s.usage.Login, Trouble: s.trouble, Sidecars: s.sidecars})
	}
	slices.SortFunc(out, func(a, b credential.Reader) int { return cmp.Compare(a.Pod, b.Pod) })
	return out
}

// OnReaders implements credential.Readers. It is called before Run.
func (b *Board) OnReaders(notify func(kind string, object client.ObjectKey)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listeners = append(b.listeners, notify)
}

// Run forgets proxies that do not come back, and tells of changes, until ctx ends.
func (b *Board) Run(ctx context.Context) {
	tick := time.NewTicker(coalesce)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b.sweep(time.Now())
		select {
		case <-b.dirty:
			b.tell()
		default:
		}
	}
}

func (b *Board) sweep(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for claim, r := range b.rooms {
		if r.follow != nil && now.After(r.follow.until) {
			r.follow = nil
		}
		for _, s := range r.sessions {
			if s.trouble != "" && now.Sub(s.told) > troubleTime {
				s.trouble = ""
				b.note(claim)
			}
			if !s.away.IsZero() && now.Sub(s.away) > grace {
				b.forget(s)
			}
		}
		if len(r.sessions) == 0 && r.operation == nil && r.follow == nil {
			delete(b.rooms, claim)
		}
	}
}

func (b *Board) tell() {
	b.mu.Lock()
	changed, listeners := slices.Collect(maps.Keys(b.changed)), slices.Clone(b.listeners)
	clear(b.changed)
	b.mu.Unlock()
	for _, claim := range changed {
		for _, notify := range listeners {
			notify(claim.Kind, claim.ObjectKey)
		}
	}
}
