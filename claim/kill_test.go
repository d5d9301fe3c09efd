package claim_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/postgres"
)

// story is one thing that berth does to a claim. It is told once in peace, and
// then with the controllers dead at each of its effects, and started afresh.
type story struct {
	window time.Duration
	every  int          // which effects are cut: 1 is all, 3 each third
	before func(*stage) // in peace; nil begins with nothing, not even a class that was seen
	begin  func(*stage)
	ended  func(*stage) (bool, string)
	holds  func(*stage)
}

func TestKilledAtAnyEffect(t *testing.T) {
	t.Parallel()
	for name, st := range map[string]story{
		"creating":                       {window: time.Hour, every: 1, begin: begin, ended: (*stage).settled, holds: isReadyWith(1)},
		"rotating":                       {window: time.Hour, every: 1, before: makeReady, begin: rotate, ended: (*stage).settled, holds: isReadyWith(2)},
		"revoking":                       {window: time.Hour, every: 3, before: makeReady, begin: revoke, ended: (*stage).settled, holds: isRevoked},
		"deleting with a window to undo": {window: time.Hour, every: 3, before: makeReady, begin: remove, ended: (*stage).gone, holds: isKept},
		"deleting at once":               {every: 3, before: makeReady, begin: remove, ended: (*stage).gone, holds: leftNothing},
		"coming back within its window":  {window: time.Hour, every: 3, before: makeGone, begin: begin, ended: (*stage).settled, holds: isBack},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			effects := 0
			if !t.Run("in peace", func(t *testing.T) { effects, _ = st.tell(t, 0, false) }) {
				return
			}
			var cut, told atomic.Int64
			t.Run("cut", func(t *testing.T) {
				for at := 1; at <= effects; at += st.every {
					for when, applied := range map[string]bool{"before": false, "after": true} {
						told.Add(1)
						t.Run(fmt.Sprintf("%s effect %d", when, at), func(t *testing.T) {
							t.Parallel()
							if _, blown := st.tell(t, at, applied); blown {
								cut.Add(1)
							}
						})
					}
				}
			})
			t.Logf("%d effects, cut %d times", effects, cut.Load())
			if cut.Load()*10 < told.Load()*6 {
				t.Errorf("only %d of %d runs were cut: the story has other effects each time", cut.Load(), told.Load())
			}
		})
	}
}

// tell runs the story with the controllers dead at one effect.
func (st story) tell(t *testing.T, at int, applied bool) (effects int, blown bool) {
	s := newStage(t, st.window)
	if st.before == nil {
		cut := s.fuse.Arm(at, applied)
		return st.play(s, s.Run(t.Context()), cut)
	}
	stop := s.Run(t.Context())
	st.before(s)
	s.Until("what came before to end", s.quiet())
	return st.play(s, stop, s.fuse.Arm(at, applied))
}

func (st story) play(s *stage, stop func(), cut <-chan struct{}) (effects int, blown bool) {
	consumer, end := s.consume()
	st.begin(s)
	s.Until("the story to end, or to be cut", func() (bool, string) {
		select {
		case <-cut:
			blown = true
			return true, ""
		default:
			return st.ended(s)
		}
	})
	effects = s.fuse.Count()
	if blown {
		stop()
		s.fuse.Mend()
		s.Run(s.t.Context())
		s.Until("the story to end after a new start", func() (bool, string) { return st.ended(s) })
	}
	end()
	if consumer.failed.Load() > 0 {
		s.t.Errorf("%d of %d logins failed, the last one: %v", consumer.failed.Load(), consumer.failed.Load()+consumer.logins.Load(), consumer.why.Load())
	}
	st.holds(s)
	return effects, blown
}

func begin(s *stage) { s.Make(s.claim) }

func makeReady(s *stage) {
	s.Make(s.claim)
	s.Until("the claim to settle", s.settled)
	s.first = s.now()
	if _, err := s.As(s.first, "CREATE TABLE kept (x int); INSERT INTO kept VALUES (3)"); err != nil {
		s.t.Fatal(err)
	}
}

func makeGone(s *stage) {
	makeReady(s)
	remove(s)
	s.Until("the claim to be gone", s.gone)
	s.claim = s.Claim("orders")
}

func remove(s *stage) {
	if err := s.Delete(s.t.Context(), s.claim); err != nil {
		s.t.Fatal(err)
	}
}

func rotate(s *stage) { s.Change(s.claim, func() { s.claim.Spec.Rotation.MinVersion = 2 }) }

func revoke(s *stage) { s.Change(s.claim, func() { s.claim.Spec.Rotation.RevokedThrough = 1 }) }

// isReadyWith demands a claim in order, with this version of its credential.
func isReadyWith(version int64) func(*stage) {
	return func(s *stage) {
		s.t.Helper()
		c := s.claim.Status.Credential
		if c.Version != version || c.Previous != "" {
			s.t.Errorf("the credential is %+v, want version %d alone", c, version)
		}
		if got := s.logins(); got != c.Login {
			s.t.Errorf("open logins: %s, want %s", got, c.Login)
		}
		if got, want := s.secrets(), "administrator berth-journal.databaseclaim.orders orders"; got != want {
			s.t.Errorf("Secrets: %s, want %s", got, want)
		}
		if got, want := s.made(), "database "+s.owner+", role "+s.owner+", role "; !strings.HasPrefix(got, want) {
			s.t.Errorf("on the server: %s, want %s…", got, want)
		}
		question := "SELECT current_user"
		if s.first != nil {
			question += " || x FROM kept"
		}
		want := s.owner
		if s.first != nil {
			want += "3"
		}
		if got, err := s.As(s.now(), question); err != nil || got != want {
			s.t.Errorf("the Secret's login reads %q, want %q: %v", got, want, err)
		}
	}
}

func isRevoked(s *stage) {
	s.t.Helper()
	isReadyWith(2)(s)
	if _, err := s.Login(s.first); err == nil {
		s.t.Error("the revoked login still works")
	}
}

func isBack(s *stage) {
	s.t.Helper()
	isReadyWith(1)(s)
	if _, err := s.Login(s.first); err == nil {
		s.t.Error("the password from before the deletion works again")
	}
	comment := s.Server.Query(s.t, "", "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '"+s.owner+"'")[0]
	if m, ok := postgres.ParseMarker(comment); !ok || m.Released != nil || m.DropAfter != nil {
		s.t.Errorf("the database is marked %q, want no end", comment)
	}
}

// isKept demands a database without logins, and with the end of its window.
func isKept(s *stage) {
	s.t.Helper()
	if got, want := s.made(), "database "+s.owner+", role "+s.owner; got != want {
		s.t.Errorf("on the server: %s, want %s", got, want)
	}
	if got := s.secrets(); got != "administrator" {
		s.t.Errorf("Secrets stay: %s", got)
	}
	comment := s.Server.Query(s.t, "", "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '"+s.owner+"'")[0]
	if m, ok := postgres.ParseMarker(comment); !ok || m.Released == nil || m.DropAfter == nil {
		s.t.Errorf("the database is marked %q, want the end of its window", comment)
	}
	if got := s.Server.Query(s.t, s.owner, "SELECT x FROM kept"); len(got) != 1 || got[0] != "3" {
		s.t.Errorf("the data is %v", got)
	}
}

func leftNothing(s *stage) {
	s.t.Helper()
	if got := s.made(); got != "" {
		s.t.Errorf("on the server stay: %s", got)
	}
	if got := s.secrets(); got != "administrator" {
		s.t.Errorf("Secrets stay: %s", got)
	}
}
