package credential_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/credential"
	"github.com/berth-dev/berth/internal/testkit"
)

func TestPostgreSQLTakesTheVerifier(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t, 15)
	for _, complexity := range []string{"enabled", "disabled"} {
		for _, length := range []int32{15, 99} {
			login := fmt.Sprintf("verifier_%s_%d", complexity, length)
			password := credential.NewPassword(v1alpha1.PasswordPolicy{Length: length, Complexity: complexity})
			server.Exec(t, "", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", login, credential.Verifier(password)))
			if got, err := whoami(t.Context(), server, login, password); err != nil || got != login {
				t.Errorf("logging in as %s: found %q, %v", login, got, err)
			}
			if _, err := whoami(t.Context(), server, login, password[1:]); err == nil {
				t.Errorf("%s can log in with a wrong password", login)
			}
		}
	}
	for _, row := range server.Query(t, "", "SELECT current_setting('password_encryption'), count(*) FROM pg_authid WHERE rolname LIKE 'verifier\\_%' AND rolpassword LIKE 'SCRAM-SHA-256$4096:%'") {
		if row != "scram-sha-256|4" {
			t.Errorf("the server keeps %s, want what it was given", row)
		}
	}
}

func whoami(ctx context.Context, server *testkit.PostgresServer, login, password string) (user string, err error) {
	target := server.Target()
	target.User, target.Password = login, password
	conn, err := testkit.Connect(ctx, target)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	rows, _ := conn.Query(ctx, "SELECT current_user")
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
}
