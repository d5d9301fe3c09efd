package dsnexec

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/berth-dev/berth/postgres"
)

// query runs all statements in order: in one transaction, or one by one when
// the server says that one of them cannot be in a transaction. That answer
// comes before the statement did anything, and undoes those before it.
func (j *job) query(ctx context.Context) error {
	conn, err := connect(ctx, j.target)
	if err != nil {
		return fmt.Errorf("connecting for configs.%s: %s", j.name, explain(err))
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	err = j.together(ctx, conn)
	if !needsNoTransaction(err) {
		return err
	}
	for _, c := range j.calls {
		if err := alone(ctx, conn, c); err != nil {
			return err
		}
	}
	return nil
}

// together takes a lock of the transaction first, so that the replicas of a
// program, which all see a change at once, do not run over each other.
func (j *job) together(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended($1, 0))", "berth dsnexec "+j.name); err != nil {
			return &failure{"waiting for the other replicas of configs." + j.name, err}
		}
		for _, c := range j.calls {
			if _, err := tx.Exec(ctx, c.text, c.args...); err != nil {
				return &failure{c.key, err}
			}
		}
		return nil
	})
}

// alone gives a statement with arguments a transaction of its own: it takes two
// round trips, which a pooler may otherwise send to two sessions.
func alone(ctx context.Context, conn *pgx.Conn, c call) (err error) {
	if len(c.args) == 0 {
		_, err = conn.Exec(ctx, c.text)
	} else {
		err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, c.text, c.args...)
			return err
		})
	}
	if err != nil {
		return &failure{c.key, err}
	}
	return nil
}

// connect is a session as any client has it: its search path is the role's own.
func connect(ctx context.Context, t postgres.Target) (*pgx.Conn, error) {
	cfg, err := t.ConnConfig()
	if err != nil {
		return nil, err
	}
	delete(cfg.RuntimeParams, "search_path")
	cfg.RuntimeParams["application_name"] = "berth dsnexec"
	cfg.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec // the server says what type an argument has
	// The server is told to stop too, so that a long statement does not go on
	// after we are gone.
	cfg.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: 2 * time.Second}
	}
	return pgx.ConnectConfig(ctx, cfg)
}

// failure names the command that failed. Its text holds what the server said
// only where that cannot quote a value.
type failure struct {
	key string
	err error
}

func (f *failure) Error() string { return f.key + ": " + explain(f.err) }
func (f *failure) Unwrap() error { return f.err }

// needsNoTransaction is what PostgreSQL answers to CREATE DATABASE, VACUUM or
// CREATE INDEX CONCURRENTLY, and to a procedure that commits.
func needsNoTransaction(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && (answer.Code == "25001" || answer.Code == "2D000")
}

// longestSaid keeps clear of where a longer message is cut: a part of a secret
// would not be recognised as one.
const longestSaid = 200

// explain leaves out what the server says about data and syntax: it quotes them.
func explain(err error) string {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) {
		return postgres.Explain(err).Message
	}
	var what string
	switch {
	case answer.Code == "42601":
		what = "the syntax"
	case strings.HasPrefix(answer.Code, "22"):
		what = "a value"
	case len(answer.Message) > longestSaid:
		what = "it at length"
	default:
		return postgres.Explain(err).Message
	}
	return fmt.Sprintf("The server refuses %s (SQLSTATE %s).", what, answer.Code)
}
