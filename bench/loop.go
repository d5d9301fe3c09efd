package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/naming"
	"github.com/berth-dev/berth/postgres"
)

// job is what one database takes: the messages that berth sends to change the
// server, in its order, and the login that it tests.
type job struct {
	database, owner, login, password string
	messages                         []string
}

// raceLoop sends the SQL of n databases, prepared beforehand, over eight open
// connections, and logs in to each. It reads nothing and looks at nothing: this
// is the least that the same result can cost. Everything is dropped when it returns.
func (w *world) raceLoop(ctx context.Context, turn, n int) (time.Duration, error) {
	jobs, err := w.plan(ctx, turn, n)
	if err != nil {
		return 0, err
	}
	lent := make(chan *pgx.Conn, concurrency)
	for range concurrency {
		conn, err := w.superuser(ctx, w.admin.Database)
		if err != nil {
			return 0, err
		}
		defer closeConn(conn)
		lent <- conn
	}
	began := time.Now()
	err = each(ctx, n, func(ctx context.Context, i int) error {
		conn := <-lent
		defer func() { lent <- conn }()
		return w.do(ctx, conn, jobs[i])
	})
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	return took, each(ctx, n, func(ctx context.Context, i int) error {
		conn := <-lent
		defer func() { lent <- conn }()
		return drop(ctx, conn, jobs[i])
	})
}

// plan has berth itself decide the SQL, on a server that has nothing yet.
func (w *world) plan(ctx context.Context, turn, n int) ([]job, error) {
	servers := postgres.NewServers(postgres.Limits{})
	defer servers.Close()
	facts, err := servers.Get(w.admin).Facts(ctx)
	if err != nil {
		return nil, err
	}
	jobs := make([]job, n)
	for i := range jobs {
		name := fmt.Sprintf("raw%d-%d", turn, i)
		owner := naming.Owner(namespace, name)
		j := job{database: owner, owner: owner, login: naming.Login(owner, 1), password: credential.NewPassword(v1alpha1.PasswordPolicy{Length: 32})}
		statements, err := postgres.DecideDatabase(postgres.Database{
			Name: owner, Owner: owner, Marker: postgres.Marker{Cluster: "bench", Claim: namespace + "/" + name, Kind: postgres.DatabaseClaim},
		}, postgres.DatabaseState{Role: postgres.RoleState{Name: owner}}, facts)
		if err != nil {
			return nil, err
		}
		login := postgres.Login{Name: j.login, Owner: owner, Session: owner, Verifier: credential.Verifier(j.password)}
		j.messages = append(messages(statements), messages(postgres.DecideLogin(login, postgres.LoginState{Name: j.login}, facts))...)
		jobs[i] = j
	}
	return jobs, nil
}

// messages joins statements that may share a transaction, as berth sends them.
func messages(statements []postgres.Statement) []string {
	var list []string
	open := false
	for _, s := range statements {
		if open && !s.Alone {
			list[len(list)-1] += ";\n" + s.SQL
		} else {
			list = append(list, s.SQL)
		}
		open = !s.Alone
	}
	return list
}

// do runs a job. Its errors do not show the SQL, which holds a verifier.
func (w *world) do(ctx context.Context, conn *pgx.Conn, j job) error {
	for i, message := range j.messages {
		if _, err := conn.PgConn().Exec(ctx, message).ReadAll(); err != nil {
			return fmt.Errorf("making database %s, message %d: %w", j.database, i+1, err)
		}
	}
	return logIn(ctx, w.as(j.database, j.login, j.password))
}

// as is the way to database with a login.
func (w *world) as(database, login, password string) postgres.Target {
	t := w.admin
	t.Database, t.User, t.Password = database, login, password
	return t
}

// logIn connects, runs a statement and leaves.
func logIn(ctx context.Context, t postgres.Target) error {
	cfg, err := t.ConnConfig()
	if err != nil {
		return err
	}
	cfg.RuntimeParams["application_name"] = "bench"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("logging in as %s: %w", t.User, err)
	}
	defer closeConn(conn)
	var who string
	if err := conn.QueryRow(ctx, "SELECT current_user::text").Scan(&who); err != nil {
		return fmt.Errorf("asking who %s is: %w", t.User, err)
	}
	return nil
}

func drop(ctx context.Context, conn *pgx.Conn, j job) error {
	for _, sql := range []string{
		"DROP DATABASE " + pgx.Identifier{j.database}.Sanitize() + " WITH (FORCE)",
		"DROP ROLE " + pgx.Identifier{j.login}.Sanitize(),
		"DROP ROLE " + pgx.Identifier{j.owner}.Sanitize(),
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("dropping database %s: %w", j.database, err)
		}
	}
	return nil
}
