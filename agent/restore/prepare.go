package restore

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// stale is what the source's server left that would mislead this one. A
// standby's signal would have it wait for a primary for ever.
var stale = []string{"postmaster.pid", "postmaster.opts", "standby.signal", "recovery.signal", "recovery.conf"}

// kept is how the source's own settings are called afterwards, for a person to read.
const kept = ".source"

// neededFolders are empty on the source, and some tools leave them out.
var neededFolders = []string{"pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc",
	"pg_twophase", "pg_commit_ts", "pg_dynshmem", "pg_logical/mappings", "pg_logical/snapshots", "pg_wal/archive_status"}

// prepare makes the data directory one that this machine can start. It may be
// repeated. It works inside root: no link of a snapshot leads it elsewhere.
func prepare(root *os.Root, dir string, f found, j Job) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range stale {
		if err := root.Remove(at(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return onDisk("removing "+name, err)
		}
	}
	if _, err := root.Stat(at("pg_wal")); errors.Is(err, os.ErrNotExist) && f.control.running() {
		return fault(SnapshotIncomplete, "looking at pg_wal: the snapshot has none, and the server was running")
	}
	for _, name := range neededFolders {
		if err := root.MkdirAll(at(name), 0o700); err != nil {
			return onDisk("making "+name, err)
		}
	}
	for name, text := range map[string]string{
		"postgresql.conf": settingsFile(j), "postgresql.auto.conf": "", "pg_ident.conf": "", "pg_hba.conf": accessFile,
	} {
		if err := setAside(root, at(name)); err != nil {
			return onDisk("keeping "+name, err)
		}
		if err := root.WriteFile(at(name), []byte(text), 0o600); err != nil {
			return onDisk("writing "+name, err)
		}
	}
	if err := root.Chmod(dir, 0o700); err != nil {
		return onDisk("closing the data directory", err)
	}
	return nil
}

// setAside keeps the source's own file once, and makes way for berth's.
func setAside(root *os.Root, path string) error {
	_, err := root.Lstat(path + kept)
	if errors.Is(err, os.ErrNotExist) {
		err = root.Rename(path, path+kept)
	} else if err == nil {
		err = root.Remove(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Nobody gets in without a password that berth gave out.
const accessFile = `# Written by berth. The source's own is in pg_hba.conf.source.
local all all scram-sha-256
host all all 0.0.0.0/0 scram-sha-256
host all all ::/0 scram-sha-256
`

// settingsFile holds berth's settings alone. The source's name its own paths,
// libraries and archive, so none of them is taken over unseen.
func settingsFile(j Job) string {
	settings := map[string]string{
		"listen_addresses": "*", "password_encryption": "scram-sha-256", "log_destination": "stderr", "logging_collector": "off",
		"dynamic_shared_memory_type": "posix", "shared_buffers": "128MB", "max_prepared_transactions": "256", "max_connections": "100",
		"max_locks_per_transaction": "256", "lc_messages": "C", "lc_monetary": "C", "lc_numeric": "C", "lc_time": "C", "timezone": "UTC",
		"log_timezone": "UTC", "log_statement": "none", "log_min_error_statement": "panic", "max_wal_size": "4GB", "archive_mode": "off",
	}
	if j.ReadOnly {
		settings["default_transaction_read_only"] = "on"
	}
	maps.Copy(settings, j.Settings)
	var text strings.Builder
	text.WriteString("# Written by berth. The source's own is in postgresql.conf.source.\n")
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.NewReplacer("'", "''", `\`, `\\`, "\n", " ").Replace(settings[name]))
	}
	return text.String()
}
