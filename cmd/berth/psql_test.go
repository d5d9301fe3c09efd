package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPsqlEnvironment(t *testing.T) {
	t.Parallel()
	secret := map[string][]byte{
		"hostname": []byte("db.test"), "port": []byte("5432"), "database": []byte("orders"),
		"username": []byte("orders_a"), "password": []byte("of the claim"), "sslmode": []byte("verify-full"),
	}
	connection := []string{"PGHOST=db.test", "PGPORT=5432", "PGDATABASE=orders", "PGUSER=orders_a", "PGPASSWORD=of the claim", "PGSSLMODE=verify-full"}
	for name, tc := range map[string]struct{ environ, kept []string }{
		"keeps what does not choose a server": {
			environ: []string{"PATH=/bin", "PGSSLROOTCERT=/ca.crt", "PGAPPNAME=me", "PAGER=less"},
			kept:    []string{"PATH=/bin", "PGSSLROOTCERT=/ca.crt", "PGAPPNAME=me", "PAGER=less"},
		},
		"drops what would send the password to another server": {
			environ: []string{"PGHOSTADDR=203.0.113.1", "PGSERVICE=other", "PGSERVICEFILE=/x", "PGHOST=other", "PGPORT=1", "HOME=/root"},
			kept:    []string{"HOME=/root"},
		},
		"drops another login": {
			environ: []string{"PGUSER=me", "PGPASSWORD=mine", "PGPASSFILE=/x", "PGDATABASE=mine", "PGSSLMODE=disable"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := append(append([]string{}, tc.kept...), connection...)
			if diff := cmp.Diff(want, psqlEnvironment(tc.environ, secret)); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}
