package mount

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
)

// BeforeConnect is for pgxpool.Config.BeforeConnect: each new connection of
// the pool gets host, port, user, password, database and TLS settings from
// what is mounted at that moment. While the mount cannot be read, the last
// credential that could be is used; when there was none, the connection fails
// with the error of Read. Everything else of the config stays as it is.
func BeforeConnect(dir Dir) func(context.Context, *pgx.ConnConfig) error {
	var mu sync.Mutex
	var last *Credential
	return func(_ context.Context, cfg *pgx.ConnConfig) error {
		mu.Lock()
		defer mu.Unlock()
		credential, err := dir.Read()
		if err == nil {
			last = &credential
		} else if last == nil {
			return err
		}
		current, err := last.ConnConfig()
		if err != nil {
			return err
		}
		cfg.Host, cfg.Port, cfg.Database = current.Host, current.Port, current.Database
		cfg.User, cfg.Password = current.User, current.Password
		cfg.TLSConfig, cfg.Fallbacks = current.TLSConfig, current.Fallbacks
		return nil
	}
}
