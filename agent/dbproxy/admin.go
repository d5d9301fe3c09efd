package dbproxy

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/berth-dev/berth/postgres"
)

// console is one connection to pgbouncer's admin console. It goes through the
// unix socket as the account that runs pgbouncer, and needs no password.
type console struct {
	conn *pgconn.PgConn
}

func (o Options) dialConsole(ctx context.Context) (*console, error) {
	cfg, err := postgres.Target{Host: o.private(), Port: o.port(), User: consoleName, Database: consoleName}.ConnConfig()
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams = nil
	conn, err := pgconn.ConnectConfig(ctx, &cfg.Config)
	if err != nil {
		return nil, fmt.Errorf("opening the admin console: %w", err)
	}
	return &console{conn}, nil
}

func (c *console) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.conn.Close(ctx) // nothing depends on the goodbye
}

// show gives the rows of a SHOW command, each by column name.
func (c *console) show(ctx context.Context, what string) ([]map[string]string, error) {
	results, err := c.conn.Exec(ctx, "SHOW "+what).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("asking pgbouncer for its %s: %w", what, err)
	}
	var rows []map[string]string
	for _, result := range results {
		for _, values := range result.Rows {
			row := map[string]string{}
			for i, field := range result.FieldDescriptions {
				row[field.Name] = string(values[i])
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (c *console) command(ctx context.Context, what string) error {
	if _, err := c.conn.Exec(ctx, what).ReadAll(); err != nil {
		return fmt.Errorf("telling pgbouncer to %s: %w", what, err)
	}
	return nil
}

// resume says RESUME until pgbouncer answers that it is not paused.
func (c *console) resume(ctx context.Context) error {
	for {
		err := c.command(ctx, "RESUME")
		var answer *pgconn.PgError
		if errors.As(err, &answer) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// pools are the figures of a database's pools, added up.
type pools struct {
	clients, waiting, loggingIn int
}

func (c *console) pools(ctx context.Context, alias string) (pools, error) {
	rows, err := c.show(ctx, "POOLS")
	var sum pools
	for _, row := range rows {
		if row["database"] != alias {
			continue
		}
		active, _ := strconv.Atoi(row["cl_active"])
		waiting, _ := strconv.Atoi(row["cl_waiting"])
		logins, _ := strconv.Atoi(row["sv_login"])
		sum.clients += active + waiting
		sum.waiting += waiting
		sum.loggingIn += logins
	}
	return sum, err
}

// errNotTaken means that pgbouncer went on with what it had: it answers RELOAD
// also to a file that it does not take.
var errNotTaken = errors.New("pgbouncer did not take its new configuration")

// verify checks that pgbouncer has read the file of s to its end, and means by
// it what s says.
func (c *console) verify(ctx context.Context, o Options, s settings) error {
	config, err := c.show(ctx, "CONFIG")
	if err != nil {
		return err
	}
	want := map[string]string{
		"syslog_ident": generationMark(s.generation), "pool_mode": o.Pool, "auth_type": "hba", "server_login_retry": "1",
		"server_reset_query_always": "1", "server_tls_sslmode": serverTLS(s.credential), "listen_port": strconv.Itoa(int(o.port())),
	}
	for _, row := range config {
		if value, asked := want[row["key"]]; asked && value != row["value"] {
			return fmt.Errorf("%w: setting %s", errNotTaken, row["key"])
		}
	}
	size := o.PoolSize
	if s.held {
		size = 1
	}
	databases, err := c.show(ctx, "DATABASES")
	if err != nil {
		return err
	}
	for _, row := range databases {
		if row["name"] != s.alias {
			continue
		}
		for column, value := range map[string]string{
			"host": s.credential.Host, "port": strconv.Itoa(int(s.credential.Port)), "database": s.credential.Database,
			"force_user": s.credential.User, "pool_size": strconv.Itoa(size),
		} {
			if row[column] != value {
				return fmt.Errorf("%w: %s of the database", errNotTaken, column)
			}
		}
		return nil
	}
	return fmt.Errorf("%w: the database is missing", errNotTaken)
}
