package backend

import (
	"context"

	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
)

// Logins works on the two logins of one owner role in one database. It is what
// a rotation needs of a server.
type Logins struct {
	Server      *postgres.Server
	Database    string
	Owner       string
	Superuser   bool
	Replication bool
	// Seen are states that were read in this very pass.
	Seen []postgres.LoginState
}

// state is what the server has of login.
func (l Logins) state(ctx context.Context, login string) (postgres.LoginState, error) {
	for _, seen := range l.Seen {
		if seen.Name == login {
			return seen, nil
		}
	}
	return l.Server.ReadLogin(ctx, login)
}

// SetLogin makes login usable with the password that verifier stands for.
func (l Logins) SetLogin(ctx context.Context, login, verifier string) error {
	facts, err := l.Server.Facts(ctx)
	if err != nil {
		return err
	}
	have, err := l.state(ctx, login)
	if err != nil {
		return err
	}
	want := l.Want(login)
	want.Verifier = verifier
	return l.Server.Apply(ctx, postgres.DecideLogin(want, have, facts))
}

// Want is login as the claim wants it, without a password.
func (l Logins) Want(login string) postgres.Login {
	return postgres.Login{Name: login, Owner: l.Owner, Session: l.Owner, Superuser: l.Superuser, Replication: l.Replication}
}

// Read reads the state of both logins.
func (l Logins) Read(ctx context.Context) ([]postgres.LoginState, error) {
	var states []postgres.LoginState
	for _, login := range naming.Logins(l.Owner) {
		state, err := l.Server.ReadLogin(ctx, login)
		if err != nil {
			return nil, err
		}
		states = append(states, state)
	}
	return states, nil
}

// TestLogin logs in to the database as the tenant will.
func (l Logins) TestLogin(ctx context.Context, login, password string) error {
	return l.Server.TestLogin(ctx, l.Database, login, password, l.Owner)
}

// Sessions counts the open sessions of login on the whole server.
func (l Logins) Sessions(ctx context.Context, login string) (int, error) {
	return l.Server.Sessions(ctx, login)
}

// EndSessions ends them and says how many there were.
func (l Logins) EndSessions(ctx context.Context, login string) (int, error) {
	return l.Server.EndSessions(ctx, login)
}

// DisableLogin closes login to new sessions and forgets its password.
func (l Logins) DisableLogin(ctx context.Context, login string) error {
	return l.Server.Apply(ctx, postgres.DisableLogin(login))
}
