package mount_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/mount"
)

// A program with a pgxpool needs one line to follow its Secret.
func ExampleBeforeConnect() {
	const dir = mount.Dir("/var/run/secrets/orders-db") // where the pod mounts the Secret

	config, err := pgxpool.ParseConfig("application_name=shop")
	if err != nil {
		fmt.Println(err)
		return
	}
	config.BeforeConnect = mount.BeforeConnect(dir)

	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Close()
	err = pool.Ping(context.Background())
	fmt.Println(errors.Is(err, mount.ErrMissing))
	// Output: true
}

func TestPoolFollowsTheMount(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t, 15)
	database := server.NewDatabaseName(t)
	server.Exec(t, "", "CREATE DATABASE "+database)
	dir := t.TempDir()
	target := server.Target()
	target.Database = database
	login := func(slot, password string) {
		server.Exec(t, "", fmt.Sprintf("CREATE ROLE %s_%s LOGIN PASSWORD '%s'", database, slot, password))
		target.User, target.Password = database+"_"+slot, password
		publish(t, dir, keys(target))
	}
	login("a", "first")

	config, err := pgxpool.ParseConfig("host=nowhere.invalid user=nobody application_name=shop")
	if err != nil {
		t.Fatal(err)
	}
	config.BeforeConnect = mount.BeforeConnect(mount.Dir(dir))
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	expect := func(want string) {
		t.Helper()
		var got string
		if err := pool.QueryRow(t.Context(), "SELECT session_user || ' ' || current_database() || ' ' || current_setting('application_name')").Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want+" "+database+" shop" {
			t.Fatalf("session = %q, want %s", got, want)
		}
	}
	expect(database + "_a")
	login("b", "second")
	expect(database + "_a") // an open connection goes on
	server.Exec(t, "", "ALTER ROLE "+database+"_a NOLOGIN")
	pool.Reset()
	expect(database + "_b")

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	pool.Reset()
	expect(database + "_b") // what was read last still holds
}

func TestBeforeConnectTakesTLSFromTheMount(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]struct{ tls, fallback bool }{
		"disable": {false, false}, "prefer": {true, true}, "require": {true, false}, "verify-full": {true, false},
	} {
		dir := t.TempDir()
		target := orders
		target.SSLMode = mode
		publish(t, dir, keys(target))
		cfg, err := pgx.ParseConfig("host=other sslmode=prefer")
		if err != nil {
			t.Fatal(err)
		}
		if err := mount.BeforeConnect(mount.Dir(dir))(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if got := cfg.TLSConfig != nil; got != want.tls {
			t.Errorf("%s: TLS = %v", mode, got)
		}
		if got := len(cfg.Fallbacks) > 0; got != want.fallback {
			t.Errorf("%s: falls back = %v", mode, got)
		}
		if mode == "verify-full" && (cfg.TLSConfig.InsecureSkipVerify || cfg.TLSConfig.ServerName != target.Host) {
			t.Errorf("%s does not verify the server", mode)
		}
	}
}
