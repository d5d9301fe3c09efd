package migration

import (
	"context"
	"fmt"

	"github.com/berth-dev/berth/postgres/replication"
)

// Settled is who has the clients, and by which link the other side follows.
type Settled struct {
	Moved   bool  // the target has them
	Link    int64 // 0 while there is none
	Attempt int64 // the highest there was
	Change  bool  // an attempt had been left half done
}

// Settle finds out who serves and finishes, or takes back, what a crash left of
// a switch. Afterwards exactly one side is open, and the other follows it or is
// not begun. The pair is given as it was before the migration.
func Settle(ctx context.Context, p replication.Pair) (Settled, error) {
	a, err := p.From.ReadStanding(ctx, p.Name)
	if err != nil {
		return Settled{}, err
	}
	b, err := p.ReadTarget(ctx)
	if err != nil {
		return Settled{}, err
	}
	out := Settled{Moved: replication.Serving(a, b), Attempt: max(a.Attempt, b.Attempt)}
	if !a.Exists {
		return out, nil
	}
	serves, left := sides{p.From, a}, sides{p.To, b}
	if out.Moved {
		serves, left = left, serves
	}
	if serves.standing.Fenced || serves.standing.Outcome == replication.Open {
		out.Change = true
		if err := serves.open(ctx, p.Name, left.standing.Outcome == replication.Moved); err != nil {
			return out, err
		}
	}
	if left.standing.Exists && !left.standing.Fenced {
		if err := left.side.Close(ctx); err != nil {
			return out, err
		}
	}
	links, err := p.Links(ctx)
	if err != nil {
		return out, err
	}
	out.Link = liveLink(links, out.Moved)
	return out, follow(ctx, p, links, out)
}

type sides struct {
	side     replication.Side
	standing replication.Standing
}

func (s sides) open(ctx context.Context, name string, decided bool) error {
	if !decided {
		return s.side.Return(ctx, name)
	}
	conn, err := s.side.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := replication.OpenDoors(ctx, conn, name); err != nil {
		return fmt.Errorf("opening %s: %w", s.side.Admin.Address(), err)
	}
	return nil
}

// liveLink is the newest that leads away from who serves; a newer one the other
// way is only prepared.
func liveLink(links []int64, moved bool) int64 {
	var live int64
	for _, n := range links {
		if (n%2 == 0) == moved {
			live = n
		}
	}
	return live
}

// follow drops links that led to who serves, and starts the one that leads away.
func follow(ctx context.Context, p replication.Pair, links []int64, s Settled) error {
	if s.Link == 0 {
		return nil
	}
	towards := func(n int64) replication.Pair {
		if n%2 == 0 {
			return p.Swapped()
		}
		return p
	}
	for _, n := range links {
		if n < s.Link {
			if err := towards(n).Disconnect(ctx, n); err != nil {
				return err
			}
		}
	}
	return towards(s.Link).Enable(ctx, s.Link)
}
