package dsnexec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// write replaces the destination by what all commands print, in one step. Its
// owner alone can read it, whoever could read what was there before.
func (j *job) write() error {
	var content []byte
	for _, c := range j.calls {
		if !fits(c.text, c.args) {
			return fmt.Errorf("%s: the format and its arguments do not fit", c.key)
		}
		content = fmt.Appendf(content, c.text, c.args...)
	}
	if old, err := os.ReadFile(j.path); err == nil && string(old) == string(content) {
		return os.Chmod(j.path, 0o600)
	}
	f, err := os.CreateTemp(filepath.Dir(j.path), ".dsnexec-*") // 0600 by contract
	if err != nil {
		return fmt.Errorf("writing %s: %w", j.path, errors.Unwrap(err))
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), j.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", j.path, err), os.Remove(f.Name()))
	}
	return nil
}

// fits tries the format on empty values: fmt would write a complaint, with the
// value in it, into the file.
func fits(format string, args []any) bool {
	empty := make([]any, len(args))
	for i, arg := range args {
		if _, isText := arg.(string); isText {
			empty[i] = ""
		} else {
			empty[i] = 0
		}
	}
	return !strings.Contains(fmt.Sprintf(strings.ReplaceAll(format, "%%", ""), empty...), "%!")
}
