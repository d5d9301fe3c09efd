package postgres_test

import (
	"fmt"
	"testing"

	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/postgres"
)

func TestSSLModesMeanWhatLibpqMeans(t *testing.T) {
	t.Parallel()
	for _, major := range testkit.Majors {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			kit := testkit.NewPostgres(t, major)
			root := kit.EnableTLS(t, "localhost")
			other := testkit.NewPostgres(t, major).EnableTLS(t, "localhost")
			for name, tc := range map[string]struct {
				mode, host string
				root       []byte
				encrypted  bool
				refused    bool
			}{
				"disable is plain":                                {mode: "disable", host: "127.0.0.1"},
				"allow is plain where that is possible":           {mode: "allow", host: "127.0.0.1"},
				"nothing said is prefer":                          {mode: "", host: "127.0.0.1", encrypted: true},
				"prefer encrypts where that is possible":          {mode: "prefer", host: "127.0.0.1", encrypted: true},
				"require trusts any certificate":                  {mode: "require", host: "127.0.0.1", encrypted: true},
				"require with a root CA checks it":                {mode: "require", host: "127.0.0.1", root: root, encrypted: true},
				"require with another root CA refuses":            {mode: "require", host: "127.0.0.1", root: other, refused: true},
				"verify-ca does not look at the name":             {mode: "verify-ca", host: "127.0.0.1", root: root, encrypted: true},
				"verify-ca refuses another authority":             {mode: "verify-ca", host: "127.0.0.1", root: other, refused: true},
				"verify-ca refuses what the system does not know": {mode: "verify-ca", host: "127.0.0.1", refused: true},
				"verify-full looks at the name":                   {mode: "verify-full", host: "127.0.0.1", root: root, refused: true},
				"verify-full accepts its host":                    {mode: "verify-full", host: "localhost", root: root, encrypted: true},
				"verify-full refuses another authority":           {mode: "verify-full", host: "localhost", root: other, refused: true},
			} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					target := kit.Target()
					target.SSLMode, target.Host, target.RootCA = tc.mode, tc.host, tc.root
					conn, err := testkit.Connect(t.Context(), target)
					if tc.refused {
						if fault := postgres.Explain(err); fault.Reason != postgres.TLSRefused || !fault.Permanent {
							t.Fatalf("have %s: %v", fault.Reason, err)
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { _ = conn.Close(t.Context()) })
					var encrypted bool
					if err := conn.QueryRow(t.Context(), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&encrypted); err != nil {
						t.Fatal(err)
					}
					if encrypted != tc.encrypted {
						t.Fatalf("encrypted = %v", encrypted)
					}
				})
			}
		})
	}
}
