package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/filesystem"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/manifest"
	"github.com/kopia/kopia/snapshot"

	"github.com/berth-dev/berth/agent/s3"
)

// storageType is what a configuration calls the storage that the context
// carries. So no configuration on disk says where it is, or how to get in.
const storageType = "berth"

type storageKey struct{}

// register tells kopia of our storage; it keeps one table for the process.
var register = sync.OnceFunc(func() {
	blob.AddSupportedStorage(storageType, struct{}{}, func(ctx context.Context, _ *struct{}, _ bool) (blob.Storage, error) {
		st, ok := ctx.Value(storageKey{}).(blob.Storage)
		if !ok {
			return nil, errors.New("no storage is given")
		}
		return st, nil
	})
})

// repository is an open kopia repository. close ends its use.
type repository struct {
	repo.Repository
	storage *watched
	client  *s3.Client // nil for a folder
	folder  string     // of configuration and cache
}

// openRepository opens what the job names, for reading.
func openRepository(ctx context.Context, j Job) (*repository, error) {
	register()
	r := &repository{folder: filepath.Join(j.Target, ".berth", "kopia")}
	password, err := r.openStorage(ctx, j.Repository)
	if err != nil {
		return nil, err
	}
	config, err := r.configure(j)
	if err != nil {
		return nil, err
	}
	r.Repository, err = repo.Open(context.WithValue(ctx, storageKey{}, blob.Storage(r.storage)), config, password, &repo.Options{
		DisableRepositoryLog: true, DoNotWaitForUpgrade: true,
		OnFatalError: func(err error) { r.storage.trouble.CompareAndSwap(nil, &Fault{RepositoryUnusable, err}) },
	})
	switch {
	case err == nil:
		return r, nil
	case errors.Is(err, repo.ErrInvalidPassword):
		return nil, fault(RepositoryUnusable, "opening the repository: its password is another")
	case errors.Is(err, blob.ErrBlobNotFound): // its first blob
		return nil, fault(RepositoryUnusable, "opening the repository: there is none")
	case errors.Is(err, repo.ErrRepositoryUnavailableDueToUpgradeInProgress):
		return nil, fault(RepositoryUnreachable, "opening the repository: it is being upgraded")
	}
	return nil, r.explain(fmt.Errorf("opening the repository: %w", err))
}

// explain finds the cause of a read that failed: trouble on the way, or else
// the data itself.
func (r *repository) explain(err error) error {
	if trouble := r.storage.trouble.Load(); trouble != nil {
		return &Fault{trouble.Reason, err}
	}
	return &Fault{RepositoryCorrupt, err}
}

func (r *repository) openStorage(ctx context.Context, o Repository) (password string, err error) {
	if o.PasswordFile != "" {
		text, err := os.ReadFile(o.PasswordFile)
		if err != nil {
			return "", fault(Unsuitable, "reading the repository's password: %w", err)
		}
		password = strings.TrimSuffix(string(text), "\n")
	}
	if o.S3 == nil {
		st, err := filesystem.New(ctx, &filesystem.Options{Path: o.Folder}, false)
		if err != nil {
			return "", fault(RepositoryUnreachable, "opening the repository's folder: %w", err)
		}
		r.storage = &watched{Storage: st, folder: true}
		return password, nil
	}
	source := folderKeys(o.S3.KeysDir)
	if o.S3.Broker != nil {
		if err := o.S3.Broker.Open(); err != nil {
			return "", &Fault{Unsuitable, err}
		}
		source = o.S3.Broker.Keys
	}
	lease := s3.NewLease(source)
	if r.client, err = s3.NewClient(o.S3.Bucket, lease); err != nil {
		return "", &Fault{Unsuitable, err}
	}
	b := &bucket{client: r.client}
	r.storage = &watched{Storage: b}
	if password == "" {
		err := b.persist(ctx, func() error {
			held, err := lease.Current(ctx)
			password = held.RepositoryPassword
			return err
		})
		if err != nil {
			return "", r.explain(r.storage.note(err))
		}
	}
	return password, nil
}

// folderKeys reads keys from a mounted Secret each time, so that a change is seen.
func folderKeys(dir string) s3.Source {
	return func(context.Context) (s3.Keys, error) {
		var k s3.Keys
		for name, value := range map[string]*string{"accessKeyId": &k.AccessKeyID, "secretAccessKey": &k.SecretAccessKey, "sessionToken": &k.SessionToken} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil && (name != "sessionToken" || !errors.Is(err, os.ErrNotExist)) {
				return s3.Keys{}, fmt.Errorf("reading keys: %w", err)
			}
			*value = strings.TrimSpace(string(text))
		}
		return k, nil
	}
}

// configure writes the file that kopia insists on. Without a cache each byte
// is written once; a cache has a limit that holds.
func (r *repository) configure(j Job) (string, error) {
	caching := &content.CachingOptions{}
	if j.CacheBytes > 0 {
		caching = &content.CachingOptions{
			CacheDirectory: filepath.Join(r.folder, "cache"), ContentCacheSizeBytes: j.CacheBytes * 8 / 10, ContentCacheSizeLimitBytes: j.CacheBytes * 8 / 10,
			MetadataCacheSizeBytes: j.CacheBytes * 2 / 10, MetadataCacheSizeLimitBytes: j.CacheBytes * 2 / 10,
		}
	}
	text, err := json.Marshal(repo.LocalConfig{
		Storage: &blob.ConnectionInfo{Type: storageType, Config: &struct{}{}}, Caching: caching,
		ClientOptions: repo.ClientOptions{Hostname: "berth", Username: "restore", ReadOnly: true},
	})
	if err != nil {
		return "", fmt.Errorf("writing kopia's configuration: %w", err)
	}
	file := filepath.Join(r.folder, "config")
	if err := errors.Join(os.MkdirAll(r.folder, 0o700), os.WriteFile(file, text, 0o600)); err != nil {
		return "", onDisk("writing kopia's configuration", err)
	}
	return file, nil
}

func (r *repository) close(ctx context.Context) {
	_ = r.Close(ctx)           // it was read, so there is nothing to lose
	_ = os.RemoveAll(r.folder) // a cache; the next run makes its own
}

// choose finds the snapshot. One that was never finished is not chosen by a
// pattern; by its id it is, and its restore says what it lacks.
func (r *repository) choose(ctx context.Context, c Choice) (*snapshot.Manifest, error) {
	if c.ID != "" {
		m, err := snapshot.LoadSnapshot(ctx, r, manifest.ID(c.ID))
		if errors.Is(err, snapshot.ErrSnapshotNotFound) {
			return nil, fault(SnapshotMissing, "finding snapshot %s: it is not in the repository", c.ID)
		}
		if err != nil {
			return nil, r.explain(fmt.Errorf("finding snapshot %s: %w", c.ID, err))
		}
		return m, nil
	}
	ids, err := snapshot.ListSnapshotManifests(ctx, r, nil, nil)
	if err != nil {
		return nil, r.explain(fmt.Errorf("listing snapshots: %w", err))
	}
	all, err := snapshot.LoadSnapshots(ctx, r, ids)
	if err != nil {
		return nil, r.explain(fmt.Errorf("listing snapshots: %w", err))
	}
	var newest *snapshot.Manifest
	for _, m := range all {
		if m.IncompleteReason == "" && c.matches(m) && (newest == nil || m.StartTime.After(newest.StartTime)) {
			newest = m
		}
	}
	if newest == nil {
		return nil, fault(SnapshotMissing, "finding a snapshot: none of %d matches", len(all))
	}
	return newest, nil
}

func (c Choice) matches(m *snapshot.Manifest) bool {
	for name, value := range c.Tags {
		if m.Tags[name] != value && m.Tags["tag:"+name] != value {
			return false
		}
	}
	return glob(c.Host, m.Source.Host) && glob(unixPath(c.Path), unixPath(m.Source.Path)) && glob(c.Description, m.Description)
}

// unixPath makes D:\Full and /D/Full the same.
func unixPath(p string) string {
	if drive, rest, found := strings.Cut(p, `:\`); found && len(drive) == 1 {
		p = "/" + drive + "/" + rest
	}
	p = strings.ReplaceAll(p, `\`, "/")
	if p == "" {
		return ""
	}
	return path.Clean(p)
}

// glob is true for an empty pattern. * crosses slashes.
func glob(pattern, text string) bool {
	if pattern == "" {
		return true
	}
	expression := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern))
	matched, err := regexp.MatchString("(?s)^"+expression+"$", text)
	return err == nil && matched
}
