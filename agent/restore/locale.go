package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// aliases let the C library take a locale that it does not know, such as that
// of Windows, for plain UTF-8. It is enough to get in and name another; what
// was sorted by the old one is reindexed then.
type aliases struct {
	dir   string
	names []string
}

// plain is where a C library may keep its plain UTF-8 locale.
var plain = []string{"/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8", "/usr/lib/locale/C.utf-8"}

var localeName = regexp.MustCompile(`^[A-Za-z0-9_.@ ,()&'-]+$`)

// add makes name known. It fails for a name that is known already, or that no
// link can carry.
func (a *aliases) add(name string) error {
	if !localeName.MatchString(name) || slices.Contains(a.names, name) || name == "." || name == ".." {
		return fault(Unsuitable, "replacing locale %q: this machine cannot take it", name)
	}
	from := slices.IndexFunc(plain, func(path string) bool { _, err := os.Stat(path); return err == nil })
	if from < 0 {
		return fault(Unsuitable, "replacing locale %q: this machine has no C.UTF-8", name)
	}
	if err := os.Symlink(plain[from], filepath.Join(a.dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("replacing locale %q: %w", name, err)
	}
	a.names = append(a.names, name)
	// The C library refuses a locale whose letters are of another code than its name says.
	var codes strings.Builder
	for _, name := range a.names {
		if _, code, found := strings.Cut(name, "."); found && !strings.ContainsAny(code, " ()&',") {
			fmt.Fprintf(&codes, "alias\t%s//\tISO-10646/UTF8/\n", strings.ToUpper(code))
		}
	}
	if err := os.WriteFile(filepath.Join(a.dir, "gconv-modules"), []byte(codes.String()), 0o644); err != nil {
		return fmt.Errorf("replacing locale %q: %w", name, err)
	}
	return nil
}

// environment is all that PostgreSQL gets.
func (a *aliases) environment() []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	if len(a.names) > 0 {
		env = append(env, "LOCPATH="+a.dir, "GCONV_PATH="+a.dir)
	}
	return env
}

var unknownLocale = regexp.MustCompile(`initialized with LC_(?:COLLATE|CTYPE) "([^"]+)"`)

// unknown is the locale that a server's refusal names.
func unknown(refusal string) (string, bool) {
	match := unknownLocale.FindStringSubmatch(refusal)
	if match == nil {
		return "", false
	}
	return match[1], true
}
