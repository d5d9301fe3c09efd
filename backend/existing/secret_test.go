package existing_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/backend/existing"
	"github.com/berth-dev/berth/postgres"
)

// password is in every malformed Secret, and must be in no error.
const password = "hunter2-Ünïcode"

func TestReadTarget(t *testing.T) {
	t.Parallel()
	ca := certificate(t)
	for name, tc := range map[string]struct {
		data map[string]string
		want postgres.Target
	}{
		"takes the URI as it is": {
			map[string]string{"uri_dsn.txt": "postgres://admin:p%40ss@db.example.com:5433/main?sslmode=require"},
			postgres.Target{Host: "db.example.com", Port: 5433, User: "admin", Password: "p@ss", Database: "main", SSLMode: "require"},
		},
		"verifies the certificate when the URI does not say": {
			map[string]string{"uri_dsn.txt": "postgresql://admin:p@db"},
			postgres.Target{Host: "db", Port: 5432, User: "admin", Password: "p", Database: "postgres", SSLMode: "verify-full"},
		},
		"prefers the URI to the keys": {
			map[string]string{"uri_dsn.txt": "postgres://a:b@uri/x\n", "hostname": "keys", "username": "k", "password": "k"},
			postgres.Target{Host: "uri", Port: 5432, User: "a", Password: "b", Database: "x", SSLMode: "verify-full"},
		},
		"takes keys, with defaults for what they do not say": {
			map[string]string{"hostname": "db", "username": "admin", "password": "p"},
			postgres.Target{Host: "db", Port: 5432, User: "admin", Password: "p", Database: "postgres", SSLMode: "verify-full"},
		},
		"takes every key": {
			map[string]string{"endpoint": "::1", "port": "5433", "username": "admin", "password": "p", "sslmode": "disable", "database": "main"},
			postgres.Target{Host: "::1", Port: 5433, User: "admin", Password: "p", Database: "main", SSLMode: "disable"},
		},
		"prefers hostname to host and endpoint": {
			map[string]string{"endpoint": "c", "host": "b", "hostname": "a", "username": "admin", "password": "p"},
			postgres.Target{Host: "a", Port: 5432, User: "admin", Password: "p", Database: "postgres", SSLMode: "verify-full"},
		},
		"drops the line ends that editors add, and no space of a password": {
			map[string]string{"hostname": "db\n", "port": " 5433\n", "username": "admin\n", "password": " p \r\n"},
			postgres.Target{Host: "db", Port: 5433, User: "admin", Password: " p ", Database: "postgres", SSLMode: "verify-full"},
		},
		"accepts an empty password, since a server may trust": {
			map[string]string{"hostname": "db", "username": "admin", "password": ""},
			postgres.Target{Host: "db", Port: 5432, User: "admin", Database: "postgres", SSLMode: "verify-full"},
		},
		"keeps the authorities to trust, beside a URI too": {
			map[string]string{"uri_dsn.txt": "postgres://a:b@uri/x", "ca.crt": ca + ca},
			postgres.Target{Host: "uri", Port: 5432, User: "a", Password: "b", Database: "x", SSLMode: "verify-full", RootCA: []byte(ca + ca)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := existing.ReadTarget(bytes(tc.data))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestReadTargetRefuses(t *testing.T) {
	t.Parallel()
	valid := func(change map[string]string) map[string]string {
		data := map[string]string{"hostname": "db", "username": "admin", "password": password}
		for key, value := range change {
			if value == "-" {
				delete(data, key)
			} else {
				data[key] = value
			}
		}
		return data
	}
	ca := certificate(t)
	for name, tc := range map[string]struct {
		data     map[string]string
		key, how string
	}{
		"an empty Secret":                        {nil, "password", "uri_dsn.txt"},
		"a URI that is none":                     {map[string]string{"uri_dsn.txt": "https://admin:" + password + "@db"}, "uri_dsn.txt", "postgres://"},
		"a URI without a user":                   {map[string]string{"uri_dsn.txt": "postgres://db/x?password=" + password}, "uri_dsn.txt", "user"},
		"a URI with a port that is none":         {map[string]string{"uri_dsn.txt": "postgres://admin:" + password + "@db:70000/x"}, "uri_dsn.txt", "65535"},
		"a URI with many hosts":                  {map[string]string{"uri_dsn.txt": "postgres://admin:" + password + "@a,b/x"}, "uri_dsn.txt", "single host"},
		"a password under another name":          {valid(map[string]string{"password": "-", "pass": password}), "password", "missing"},
		"no user":                                {valid(map[string]string{"username": "-"}), "username", "missing"},
		"no host":                                {valid(map[string]string{"hostname": " \n"}), "hostname", "host name or IP"},
		"a host with a port":                     {valid(map[string]string{"hostname": "db:5432"}), "hostname", "without port"},
		"a host that is a URI":                   {valid(map[string]string{"hostname": "-", "host": "postgres://a:" + password + "@db"}), "host", "without port"},
		"a host that is a folder":                {valid(map[string]string{"hostname": "-", "endpoint": "/run/postgresql"}), "endpoint", "host name"},
		"a port of zero":                         {valid(map[string]string{"port": "0"}), "port", "1 to 65535"},
		"a port that is no number":               {valid(map[string]string{"port": password}), "port", "1 to 65535"},
		"an sslmode that does not exist":         {valid(map[string]string{"sslmode": password}), "sslmode", "verify-full"},
		"an authority that is no certificate":    {valid(map[string]string{"ca.crt": password}), "ca.crt", "PEM"},
		"an authority cut short":                 {valid(map[string]string{"ca.crt": ca + ca[:len(ca)/2]}), "ca.crt", "PEM"},
		"an authority that is a key":             {valid(map[string]string{"ca.crt": "-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n"}), "ca.crt", "PEM"},
		"an authority with a broken certificate": {valid(map[string]string{"ca.crt": "-----BEGIN CERTIFICATE-----\nMC4=\n-----END CERTIFICATE-----\n"}), "ca.crt", "PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := existing.ReadTarget(bytes(tc.data))
			if err == nil {
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), "key "+tc.key) || !strings.Contains(err.Error(), tc.how) {
				t.Errorf("%q names not key %s and %q", err, tc.key, tc.how)
			}
			if strings.Contains(err.Error(), password) {
				t.Error("the error shows the password")
			}
		})
	}
}

func FuzzReadTarget(f *testing.F) {
	f.Add("postgres://a:b@c/d", "db", "5432", "admin", "require", "")
	f.Add("", "db", "5432", "admin", "", "-----BEGIN CERTIFICATE-----")
	f.Fuzz(func(t *testing.T, uri, host, port, user, sslMode, ca string) {
		const secret = "s3cr3t-that-no-input-has"
		target, err := existing.ReadTarget(bytes(map[string]string{
			"uri_dsn.txt": uri, "hostname": host, "port": port, "username": user, "sslmode": sslMode, "ca.crt": ca, "password": secret,
		}))
		if err != nil {
			if strings.Contains(err.Error(), secret) || !utf8.ValidString(err.Error()) {
				t.Fatalf("the error is not fit to be read: %q", err)
			}
			return
		}
		if target.Host == "" || target.Port == 0 || target.User == "" || target.Database == "" {
			t.Fatalf("accepted half a target: %s", target)
		}
		if _, err := target.ConnConfig(); err != nil {
			t.Fatalf("accepted what makes no connection: %v", err)
		}
	})
}

func bytes(data map[string]string) map[string][]byte {
	out := map[string][]byte{}
	for key, value := range data {
		out[key] = []byte(value)
	}
	return out
}
