package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/agent/sidecar"
)

// What a tenant's program does: some clients keep their connection, half of
// them in transactions, and some connect anew each time.
const (
	longLived     = 8
	reconnecting  = 4
	longEvery     = 2 * time.Millisecond
	insertAnEvent = "INSERT INTO public.events DEFAULT VALUES"
)

// underLoad calls during while clients work through the proxy, and counts
// afterwards whether all that they were told is there: a row that is missing is
// a failure.
func (t *tenant) underLoad(ctx context.Context, during func() error) (*sidecar.Load, error) {
	direct, err := sidecar.Connect(ctx, t.login)
	if err != nil {
		return nil, err
	}
	_, err = direct.Exec(ctx, "CREATE TABLE IF NOT EXISTS public.events (id bigserial, by text DEFAULT current_user); TRUNCATE public.events")
	closeConn(direct)
	if err != nil {
		return nil, fmt.Errorf("making a table: %w", err)
	}
	seen := &sidecar.Load{}
	working, rest := context.WithCancel(ctx)
	defer rest()
	var group sync.WaitGroup
	via := t.proxy.Target(tenantName)
	for n := range longLived {
		work := write
		if n%2 == 0 {
			work = writeInTransaction
		}
		group.Go(func() { seen.Stay(ctx, working, via, longEvery, work) })
	}
	for range reconnecting {
		group.Go(func() { seen.ComeAndGo(ctx, working, via, reconnectEvery, write) })
	}
	err = during()
	rest()
	group.Wait()
	if err != nil {
		return nil, err
	}
	conn, err := sidecar.Connect(ctx, via)
	if err != nil {
		return nil, err
	}
	defer closeConn(conn)
	var rows int
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM public.events").Scan(&rows); err != nil {
		return nil, fmt.Errorf("counting rows: %w", err)
	}
	seen.Failed += max(0, seen.Done-rows)
	return seen, nil
}

func write(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, insertAnEvent)
	return err
}

func writeInTransaction(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, insertAnEvent); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "SELECT count(*) FROM (SELECT FROM public.events LIMIT 10) e")
		return err
	})
}
