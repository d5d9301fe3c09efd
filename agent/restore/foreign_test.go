package restore_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/berth-dev/berth/agent/restore"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/process"
)

// A directory that comes from Windows, from a standby, with settings of a
// machine that is not here, and with logins and links into production.
func TestAForeignServerComesUpHere(t *testing.T) {
	t.Parallel()
	source := newSource(t, 15)
	source.Exec(t, "shop", "CREATE INDEX by_text ON names (left(long, 40), name)")
	source.Exec(t, "shop", "CREATE PUBLICATION p FOR ALL TABLES")
	source.Exec(t, "shop", "CREATE SUBSCRIPTION s CONNECTION 'host=production.invalid dbname=shop password=of-production' PUBLICATION p WITH (connect = false)")
	source.Exec(t, "shop", "ALTER SUBSCRIPTION s SET (slot_name = 's')")
	source.Exec(t, "shop", "ALTER SUBSCRIPTION s ENABLE")
	source.Exec(t, "", "SELECT pg_create_physical_replication_slot('of_a_standby', true)")
	source.Exec(t, "", "CREATE ROLE clerk LOGIN PASSWORD 'of-production'")
	data := source.data(t)
	source.Exec(t, "", "UPDATE pg_database SET datcollate = 'English_United States.1252', datctype = 'English_United States.1252', datcollversion = NULL")
	source.Stop(t)
	for name, text := range map[string]string{
		"postmaster.pid":       "1\nC:/Program Files/PostgreSQL/15/data\n1700000000\n5432\n\n*\n",
		"standby.signal":       "",
		"postgresql.conf":      "data_directory = 'D:/data'\r\nshared_preload_libraries = 'timescaledb'\r\nlc_messages = 'English_United States.1252'\r\nssl = on\r\nlisten_addresses='localhost'",
		"postgresql.auto.conf": "archive_mode = on\narchive_command = 'copy %p \\\\\\\\server\\\\wal'\nrestore_command = 'false'\n",
		"pg_hba.conf":          "host all all 0.0.0.0/0 trust\r\n",
	} {
		path := filepath.Join(data, name)
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	o := newOrigin(t, t.TempDir())
	o.snap = o.snapshot(t, data)
	j := o.job(t)
	j.ReadOnly = true
	verifier := filepath.Join(t.TempDir(), "verifier")
	const given = "SCRAM-SHA-256$4096:MTIzNDU2Nzg5MDEyMzQ1Ng==$MwBNnBkLDKOHkFBQhPbOqMsVYwJ9mJHPBj7gUYFZxn8=:Yz9T2Mh0XJeZ3z5lCBl8wpZBhU2uPkFlAQJRUp4l2vA="
	if err := os.WriteFile(verifier, []byte(given+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	j.Logins = []restore.Login{{Name: "analytics", VerifierFile: verifier}, {Name: "Dr. \"No\"", VerifierFile: verifier, Superuser: true}}
	r := run(t, j)
	expect(t, r, restore.Verified, "", "")
	want := restore.Fixes{
		Locales: []string{"postgres: English_United States.1252", "shop: English_United States.1252", "template0: English_United States.1252", "template1: English_United States.1252"},
		Slots:   1, Subscriptions: 1, Passwords: 2, Reindexed: r.Fixes.Reindexed,
	}
	if diff := cmp.Diff(want, r.Fixes, cmp.Transformer("sorted", func(in []string) map[string]bool {
		out := map[string]bool{}
		for _, s := range in {
			out[s] = true
		}
		return out
	})); diff != "" || r.Fixes.Reindexed == 0 {
		t.Errorf("%d reindexed; %s", r.Fixes.Reindexed, diff)
	}
	if again := run(t, j); again.Verdict != restore.Verified || again.Fixes.Slots != 1 || again.Fixes.Subscriptions != 1 {
		t.Errorf("the second run found %q %+v: %s", again.Verdict, again.Fixes, again.Message)
	}
	withServer(t, j, func(connect func(string) *pgx.Conn) {
		c := connect("shop")
		for query, want := range map[string]string{
			"SELECT datcollate FROM pg_database WHERE datname = 'shop'":                                           "C.UTF-8",
			"SELECT count(*)::text FROM names WHERE name = 'name 77'":                                             "1",
			"SELECT count(*)::text FROM pg_subscription WHERE subenabled":                                         "0",
			"SELECT count(*)::text FROM pg_replication_slots":                                                     "0",
			"SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_authid WHERE rolpassword = '" + given + "'": `Dr. "No",analytics`,
			"SELECT count(*)::text FROM pg_authid WHERE rolpassword IS NOT NULL":                                  "2",
			"SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles WHERE rolsuper":                       `Dr. "No",postgres`,
			"SELECT pg_has_role('analytics', 'pg_read_all_data', 'member')::text":                                 "true",
			"SHOW default_transaction_read_only":                                                                  "on",
			"SHOW shared_preload_libraries":                                                                       "",
			"SHOW archive_mode":                                                                                   "off",
			"SELECT count(*)::text FROM pg_extension WHERE extname = 'amcheck'":                                   "0",
		} {
			var got string
			if err := c.QueryRow(t.Context(), query).Scan(&got); err != nil || got != want {
				t.Errorf("%s: %q, %v; want %q", query, got, err, want)
			}
		}
		var snapshot, stage, fixes string
		err := connect("postgres").QueryRow(t.Context(), "SELECT snapshot_id, stage, fixes->>'slots' FROM _berth.restore_info").Scan(&snapshot, &stage, &fixes)
		if err != nil || snapshot != o.snap || stage != "ready" || fixes != "1" {
			t.Errorf("the record says %s %s %s, %v", snapshot, stage, fixes, err)
		}
	})
	_, own := dataOf(t, j)
	if text := read(t, filepath.Join(own, "pg_hba.conf")); strings.Contains(text, "trust") {
		t.Errorf("pg_hba.conf trusts:\n%s", text)
	}
	if text := read(t, filepath.Join(own, "postgresql.conf.source")); !strings.Contains(text, "timescaledb") {
		t.Error("the source's settings were not kept to read")
	}
}

// The copy of a server that writes is of no one moment, unless it is a base
// backup; and a copy whose moment is unknown is never verified.
func TestTheMomentOfACopy(t *testing.T) {
	t.Parallel()
	source := newSource(t, 15)
	o := newOrigin(t, t.TempDir())
	var live, base string
	source.write(t, func() {
		live = o.snapshot(t, source.data(t))
		folder := filepath.Join(testkit.OpenDir(t), "base")
		var out strings.Builder
		spec := source.spec(t, nil, "pg_basebackup", "--pgdata="+folder, "--checkpoint=fast", "--wal-method=stream")
		spec.Log = &out
		if err := process.Run(t.Context(), spec); err != nil {
			t.Fatalf("pg_basebackup: %v: %s", err, out.String())
		}
		base = o.snapshot(t, folder)
	})
	j := o.job(t)
	j.Snapshot = restore.Choice{ID: base}
	expect(t, run(t, j), restore.Verified, "", "")

	j = o.job(t)
	j.Snapshot = restore.Choice{ID: live}
	if r := run(t, j); r.Verdict == restore.Verified || r.Verdict == "" {
		t.Errorf("the live copy is called %q", r.Verdict)
	} else if r.Verdict == restore.Degraded && !strings.Contains(r.Message, "moment: the files were copied one by one") {
		t.Errorf("message = %s", r.Message)
	}
}

func TestFindingTheDataDirectory(t *testing.T) {
	t.Parallel()
	cluster := func(t *testing.T, dir, version string) {
		t.Helper()
		control := make([]byte, 8192)
		control[16] = 1 // shut down
		for name, text := range map[string]string{"PG_VERSION": version, "global/pg_control": string(control), "base/1/PG_VERSION": version} {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tc := range map[string]struct {
		make  func(*testing.T, string)
		wish  string
		found string // empty: not
		cause string
	}{
		"at the top":              {func(t *testing.T, root string) { cluster(t, root, "15\n") }, "", ".", ""},
		"deeper":                  {func(t *testing.T, root string) { cluster(t, root+"/var/lib/15/main", "15\n") }, "", "var/lib/15/main", ""},
		"the newest of two":       {func(t *testing.T, root string) { cluster(t, root+"/9", "13"); cluster(t, root+"/10", "17") }, "", "10", ""},
		"two of the same, unsaid": {func(t *testing.T, root string) { cluster(t, root+"/a", "15"); cluster(t, root+"/b", "15") }, "", "", "name one in dataPath"},
		"two of the same, named":  {func(t *testing.T, root string) { cluster(t, root+"/a", "15"); cluster(t, root+"/b", "15") }, "b", "b", ""},
		"the one that current leads to": {func(t *testing.T, root string) {
			cluster(t, root+"/1/data", "15")
			cluster(t, root+"/2/data", "17")
			if err := os.Symlink(`D:\Full\1\data`, root+"/current"); err != nil {
				t.Fatal(err)
			}
		}, "", "1/data", ""},
		"none":             {func(*testing.T, string) {}, "", "", "holds none"},
		"one without base": {func(t *testing.T, root string) { cluster(t, root, "15"); _ = os.RemoveAll(root + "/base") }, "", "", "holds none"},
		"a named one that is outside": {func(t *testing.T, root string) {
			other := t.TempDir()
			cluster(t, other, "15")
			if err := os.Symlink(other, root+"/link"); err != nil {
				t.Fatal(err)
			}
		}, "link", "", "does not hold link"},
		"a named one that is none":    {func(t *testing.T, root string) { cluster(t, root, "15") }, "base", "", "lacks PG_VERSION"},
		"a version that is no number": {func(t *testing.T, root string) { cluster(t, root, "devel") }, "", "", "PG_VERSION"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			tc.make(t, root)
			got, err := restore.Locate(root, tc.wish)
			if tc.found == "" {
				var f *restore.Fault
				if !errors.As(err, &f) || !strings.Contains(err.Error(), tc.cause) {
					t.Errorf("found %q, %v", got, err)
				}
				return
			}
			if err != nil || got != filepath.Join(root, tc.found) {
				t.Errorf("found %q, %v", got, err)
			}
		})
	}
}

// A tablespace that is in the snapshot is found where it is now.
func TestATablespaceInTheSnapshotComesAlong(t *testing.T) {
	t.Parallel()
	source := newSource(t, 17)
	data := source.data(t)
	space := filepath.Join(filepath.Dir(data), "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	o := newOrigin(t, t.TempDir())
	j := o.job(t)
	if j.Account != "" {
		giveTo(t, space, j.Account)
	}
	source.Exec(t, "", "CREATE TABLESPACE fast LOCATION '"+space+"'")
	source.Exec(t, "shop", "ALTER TABLE names SET TABLESPACE fast")
	source.Stop(t)
	j.Snapshot = restore.Choice{Path: filepath.Dir(data)[:5] + "*"}
	o.snapshot(t, filepath.Dir(data))
	if err := os.RemoveAll(space); err != nil {
		t.Fatal(err)
	}
	expect(t, run(t, j), restore.Verified, "", "")
	links, err := filepath.Glob(filepath.Join(j.Target, "data", "data", "pg_tblspc", "*"))
	if err != nil || len(links) != 1 {
		t.Fatalf("%v, %v", links, err)
	}
	if at, err := filepath.EvalSymlinks(links[0]); err != nil || at != filepath.Join(j.Target, "data", "space") {
		t.Errorf("the tablespace is at %s, %v", at, err)
	}
}
