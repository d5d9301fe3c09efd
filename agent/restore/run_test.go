package restore_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/agent/restore"
)

// expect compares the verdict, and shows all of the result when it is another.
func expect(t testing.TB, r restore.Result, verdict restore.Verdict, reason restore.Reason, message string) {
	t.Helper()
	if r.Verdict != verdict || r.Reason != reason || !strings.Contains(r.Message, message) {
		text, _ := json.MarshalIndent(r, "", "  ")
		t.Errorf("got %q %q, want %q %q with %q:\n%s", r.Verdict, r.Reason, verdict, reason, message, text)
	}
}

func TestASnapshotOfAServerThatWritesIsVerified(t *testing.T) {
	t.Parallel()
	for _, major := range []int{15, 17} {
		o := frozen(t, major)
		j := o.job(t)
		j.Checks.Assertions = []restore.Assertion{{Name: "all accounts", SQL: "SELECT count(*) = 100000 FROM pgbench_accounts"}}
		r := run(t, j)
		expect(t, r, restore.Verified, "", "")
		if r.Version != major || r.SnapshotID != o.snap || len(r.Databases) == 0 || r.Databases[0].Name != "shop" || r.Databases[0].Tables != 5 {
			t.Errorf("result = %+v", r)
		}
		text, err := os.ReadFile(filepath.Join(j.Target, ".berth", "result.json"))
		if err != nil || !strings.Contains(string(text), `"verdict": "verified"`) {
			t.Errorf("result file: %v: %s", err, text)
		}
		if again := run(t, j); again.Verdict != restore.Verified {
			t.Errorf("the second run found %q: %s", again.Verdict, again.Message)
		}
	}
}

func TestACacheIsGoneAfterwards(t *testing.T) {
	t.Parallel()
	j := frozen(t, 15).job(t)
	j.CacheBytes = 64 << 20
	j.Snapshot = restore.Choice{Path: "/tmp/*"}
	expect(t, run(t, j), restore.Verified, "", "")
	if _, err := os.Stat(filepath.Join(j.Target, ".berth", "kopia")); !os.IsNotExist(err) {
		t.Errorf("the cache is still there: %v", err)
	}
}

func TestWhatAJobMayNotSay(t *testing.T) {
	t.Parallel()
	good := restore.Job{Target: "/t", Programs: "/p", Repository: restore.Repository{Folder: "/r", PasswordFile: "/s"}}
	for name, tc := range map[string]struct {
		change func(*restore.Job)
		want   string
	}{
		"a relative target":          {func(j *restore.Job) { j.Target = "t" }, "target"},
		"the root as target":         {func(j *restore.Job) { j.Target = "/.." }, "target"},
		"no repository":              {func(j *restore.Job) { j.Repository.Folder = "" }, "exactly one of folder and s3"},
		"keys of nobody":             {func(j *restore.Job) { j.Repository = restore.Repository{S3: &restore.Bucket{}, PasswordFile: "/s"} }, "exactly one of broker and keysDir"},
		"no password":                {func(j *restore.Job) { j.Repository.PasswordFile = "" }, "passwordFile"},
		"data outside the snapshot":  {func(j *restore.Job) { j.DataPath = "../x" }, "dataPath"},
		"a setting of ours":          {func(j *restore.Job) { j.Settings = map[string]string{"archive_command": "x"} }, "settings.archive_command"},
		"a setting that is none":     {func(j *restore.Job) { j.Settings = map[string]string{"a = 1\nb": "x"} }, "cannot be set"},
		"a login without a secret":   {func(j *restore.Job) { j.Logins = []restore.Login{{Name: "x"}} }, "verifierFile"},
		"a cache that holds nothing": {func(j *restore.Job) { j.CacheBytes = 1 }, "cacheBytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := good
			tc.change(&j)
			file := filepath.Join(t.TempDir(), "job.yaml")
			text, err := yaml.Marshal(j)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := restore.ReadJob(file); !errors.Is(err, restore.ErrJob) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "job.yaml")
	if err := os.WriteFile(file, []byte("target: /t\npassword: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := restore.ReadJob(file); !errors.Is(err, restore.ErrJob) {
		t.Errorf("an unknown field was taken: %v", err)
	}
}
