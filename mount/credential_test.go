package mount_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/mount"
	"github.com/berth-dev/berth/postgres"
)

const secret = "s3cret-Value"

var orders = postgres.Target{Host: "db.example.org", Port: 6432, User: "orders_a", Password: secret, Database: "orders", SSLMode: "require"}

// keys are all that berth publishes for t.
func keys(t postgres.Target) map[string]string {
	return map[string]string{
		"uri_dsn.txt": t.URI(), "dsn.txt": t.KeyValue(), "hostname": t.Host, "port": fmt.Sprint(t.Port),
		"database": t.Database, "username": t.User, "password": t.Password, "sslmode": t.SSLMode,
	}
}

func with(key, value string) map[string]string {
	data := keys(orders)
	data[key] = value
	return data
}

func without(names ...string) map[string]string {
	data := keys(orders)
	for _, name := range names {
		delete(data, name)
	}
	return data
}

func TestReadCredential(t *testing.T) {
	t.Parallel()
	local := orders
	local.Port = 5432
	for name, tc := range map[string]struct {
		data map[string]string
		want postgres.Target
	}{
		"all keys of a Secret of berth":             {keys(orders), orders},
		"the URI alone":                             {map[string]string{"uri_dsn.txt": orders.URI()}, orders},
		"the URI with a line break at its end":      {map[string]string{"uri_dsn.txt": orders.URI() + "\n"}, orders},
		"the single keys, where there is no URI":    {without("uri_dsn.txt", "dsn.txt"), orders},
		"no port, which is 5432":                    {without("uri_dsn.txt", "port"), local},
		"a Secret with keys of its own":             {with("jdbc", "anything"), orders},
		"a URI beside only some of the single keys": {without("password", "sslmode"), orders},
		"a password that is not like what it stands in": {
			keys(postgres.Target{Host: "h", Port: 1, User: `a"'\%@/`, Password: `p:/?#[]@!$&'()*+,;= %"\`, Database: "d b", SSLMode: "disable"}),
			postgres.Target{Host: "h", Port: 1, User: `a"'\%@/`, Password: `p:/?#[]@!$&'()*+,;= %"\`, Database: "d b", SSLMode: "disable"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for how, put := range map[string]func(testing.TB, string, map[string]string){"as a volume": publish, "as plain files": write} {
				dir := t.TempDir()
				put(t, dir, tc.data)
				got, err := mount.Dir(dir).Read()
				if err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				if diff := cmp.Diff(tc.want.URI(), got.URI()); diff != "" {
					t.Errorf("%s: (-want +got)\n%s", how, diff)
				}
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		data map[string]string
		want error
	}{
		"an empty folder":                       {nil, mount.ErrMissing},
		"a folder with other keys alone":        {map[string]string{"jdbc": secret}, mount.ErrMissing},
		"an empty URI":                          {with("uri_dsn.txt", ""), mount.ErrMalformed},
		"a URI cut off in the password":         {with("uri_dsn.txt", "postgresql://orders_a:s3cr"), mount.ErrMalformed},
		"a URI cut off in the database's name":  {with("uri_dsn.txt", strings.SplitAfter(orders.URI(), "/ord")[0]), mount.ErrMalformed},
		"a URI cut off before its sslmode":      {with("uri_dsn.txt", strings.Split(orders.URI(), "?")[0]), mount.ErrMalformed},
		"a URI cut off in its sslmode":          {map[string]string{"uri_dsn.txt": strings.TrimSuffix(orders.URI(), "uire")}, mount.ErrMalformed},
		"a URI without a password":              {map[string]string{"uri_dsn.txt": "postgresql://orders_a@db.example.org/orders"}, mount.ErrMalformed},
		"a URI without a database":              {map[string]string{"uri_dsn.txt": "postgresql://orders_a:" + secret + "@db.example.org"}, mount.ErrMalformed},
		"a URI and a password that disagree":    {with("password", "new-"+secret), mount.ErrMalformed},
		"a URI and a user that disagree":        {with("username", "orders_b"), mount.ErrMalformed},
		"no password among the single keys":     {without("uri_dsn.txt", "password"), mount.ErrMalformed},
		"no host among the single keys":         {without("uri_dsn.txt", "hostname"), mount.ErrMalformed},
		"a port that is a word":                 {with("port", secret), mount.ErrMalformed},
		"an sslmode that is none":               {maps.Collect(maps.All(map[string]string{"hostname": "h", "username": "u", "password": secret, "database": "d", "sslmode": secret})), mount.ErrMalformed},
		"a root certificate that is none":       {with(mount.KeyCA, secret), mount.ErrMalformed},
		"a key of more than 64 kB":              {with("uri_dsn.txt", orders.URI()+strings.Repeat(" ", 64<<10)), mount.ErrMalformed},
		"a scheme that is not PostgreSQL's own": {with("uri_dsn.txt", "mysql://orders_a:"+secret+"@h/d"), mount.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			publish(t, dir, tc.data)
			_, err := mount.Dir(dir).Read()
			if !errors.Is(err, tc.want) {
				t.Fatalf("error = %v, want %v", err, tc.want)
			}
			if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "s3cr") {
				t.Fatalf("the error shows a value: %v", err)
			}
		})
	}
}

func TestReadRefusesAFolderThatIsNotThere(t *testing.T) {
	t.Parallel()
	if _, err := mount.Dir(t.TempDir() + "/gone").Read(); !errors.Is(err, mount.ErrMissing) {
		t.Fatal(err)
	}
}

// No mix of two versions is ever read, and no version is missed for being replaced.
func TestReadIsOfOneVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	version := func(n int) map[string]string {
		target := orders
		target.User, target.Password, target.Database = fmt.Sprintf("u%d", n), fmt.Sprintf("p%d", n), fmt.Sprintf("d%d", n)
		data := keys(target)
		delete(data, "uri_dsn.txt") // so that nothing but the snapshot keeps the keys together
		return data
	}
	publish(t, dir, version(0))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := mount.Dir(dir).Read()
				if err != nil {
					t.Errorf("reading while the volume changes: %v", err)
					return
				}
				if got.User[1:] != got.Password[1:] || got.User[1:] != got.Database[1:] || got.SSLMode != "require" {
					t.Errorf("read a mix: %v with sslmode %q", got, got.SSLMode)
					return
				}
			}
		})
	}
	for n := range 300 {
		publish(t, dir, version(n+1))
	}
	close(stop)
	readers.Wait()
}

func TestCredentialNeverPrintsItsPassword(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	publish(t, dir, keys(orders))
	c, err := mount.Dir(dir).Read()
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if text := fmt.Sprintf(format, c); strings.Contains(text, secret) {
			t.Errorf("%s shows the password: %s", format, text)
		}
	}
}

func TestReadGivesBackWhateverWasWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := rapid.StringMatching(`[^\x00]{1,20}`)
	rapid.Check(t, func(rt *rapid.T) {
		want := postgres.Target{Host: "h", Port: uint16(rapid.IntRange(1, 65535).Draw(rt, "port")), User: text.Draw(rt, "user"),
			Password: text.Draw(rt, "password"), Database: text.Draw(rt, "database"), SSLMode: "disable"}
		publish(t, dir, keys(want))
		got, err := mount.Dir(dir).Read()
		if err != nil {
			rt.Fatal(err)
		}
		if got.URI() != want.URI() {
			rt.Fatalf("read %q, want %q", got.URI(), want.URI())
		}
	})
}
