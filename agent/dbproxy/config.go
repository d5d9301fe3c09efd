package dbproxy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/berth-dev/berth/mount"
)

// errUnwritable is in the chain when a credential holds what pgbouncer's
// configuration has no way to say.
var errUnwritable = errors.New("the credential holds a line break or is too long for pgbouncer")

// What pgbouncer 1.18 holds of a value, in bytes.
const (
	nameLimit     = 63
	passwordLimit = 1024
)

// writable tells whether pgbouncer's line-based files can hold value.
func writable(value string) bool { return !strings.ContainsAny(value, "\n\r\x00") }

func checkWritable(c mount.Credential) error {
	if len(c.User) > nameLimit || len(c.Database) > nameLimit || len(c.Password) > passwordLimit {
		return errUnwritable
	}
	for _, value := range []string{c.Host, c.User, c.Password, c.Database} {
		if !writable(value) {
			return errUnwritable
		}
	}
	return nil
}

// settings is everything one pgbouncer.ini says.
type settings struct {
	credential mount.Credential
	alias      string
	// held clamps the pool to one connection, so that no login is in flight
	// when the server behind it changes.
	held bool
	// generation is told back by the console once the whole file was taken.
	generation int
}

// ignored are startup parameters that common drivers send and pgbouncer would
// otherwise refuse. It drops them: real values belong to the login.
const ignored = "extra_float_digits,options,search_path,statement_timeout,lock_timeout,idle_in_transaction_session_timeout"

// render writes the ini. The generation stands last: reading stops at an error.
func (o Options) render(s settings) string {
	listen, _ := netip.ParseAddrPort(o.Listen) // Validate has seen it
	c := s.credential
	line := fmt.Sprintf("%s = host=%s port=%d dbname=%s user=%s password=%s",
		s.alias, quote(c.Host), c.Port, quote(c.Database), quote(c.User), quote(c.Password))
	if s.held {
		line += " pool_size=1"
	}
	out := []string{"[databases]", line, "", "[pgbouncer]"}
	for _, pair := range [][2]string{
		{"listen_addr", listen.Addr().String()},
		{"listen_port", strconv.Itoa(int(listen.Port()))},
		{"unix_socket_dir", o.private()},
		{"unix_socket_mode", "0700"},
		{"auth_type", "hba"},
		{"auth_hba_file", o.path("hba.conf")},
		{"auth_file", o.path("userlist.txt")},
		{"pool_mode", o.Pool},
		{"default_pool_size", strconv.Itoa(o.PoolSize)},
		{"max_client_conn", "900"},
		{"server_login_retry", "1"},
		{"dns_nxdomain_ttl", "1"},
		{"server_reset_query", "DISCARD ALL"},
		{"server_reset_query_always", "1"},
		{"ignore_startup_parameters", ignored},
		{"server_tls_sslmode", serverTLS(c)},
		{"server_tls_ca_file", o.caFile(c)},
		{"log_connections", "0"},
		{"log_disconnections", "0"},
		{"log_stats", "0"},
		{"syslog_ident", generationMark(s.generation)},
	} {
		if pair[1] != "" {
			out = append(out, pair[0]+" = "+pair[1])
		}
	}
	return strings.Join(out, "\n") + "\n"
}

// generationMark goes into a setting that has no effect while syslog is off.
func generationMark(n int) string { return "berth-" + strconv.Itoa(n) }

// quote is pgbouncer's: only a single quote is special between single quotes.
func quote(value string) string { return "'" + strings.ReplaceAll(value, "'", "''") + "'" }

// serverTLS is never weaker than what libpq makes of the same sslmode.
func serverTLS(c mount.Credential) string {
	switch {
	case strings.HasPrefix(c.Host, "/"):
		return "disable"
	case c.SSLMode == "" || c.SSLMode == "allow":
		return "prefer"
	case c.SSLMode == "require" && len(c.RootCA) > 0:
		return "verify-ca"
	}
	return c.SSLMode
}

// systemRoots is where distributions keep the roots they trust.
var systemRoots = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}

// caFile is only given where the server is verified: pgbouncer refuses a
// configuration whose file it cannot read.
func (o Options) caFile(c mount.Credential) string {
	if mode := serverTLS(c); mode != "verify-ca" && mode != "verify-full" {
		return ""
	}
	if len(c.RootCA) > 0 {
		return o.path(caName(c))
	}
	for _, path := range systemRoots {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return systemRoots[0]
}

// caName differs by content: while two credentials overlap, each has its file.
func caName(c mount.Credential) string {
	return fmt.Sprintf("server-ca-%x.crt", sha256.Sum256(c.RootCA))
}

// hba lets the console be reached by our own account alone, through the socket.
func (o Options) hba() string {
	listen, _ := netip.ParseAddrPort(o.Listen) // Validate has seen it
	method := "trust"
	if o.ClientAuth == "scram" {
		method = "scram-sha-256"
	}
	return strings.Join([]string{
		"local pgbouncer all peer",
		"host pgbouncer all 0.0.0.0/0 reject",
		"host pgbouncer all ::/0 reject",
		"host all pgbouncer 0.0.0.0/0 reject", // a user it always has
		"host all pgbouncer ::/0 reject",
		fmt.Sprintf("host all all %s/%d %s", listen.Addr(), listen.Addr().BitLen(), method),
		"local all all reject",
	}, "\n") + "\n"
}

// userList names whom clients may say they are. The server sees the forced
// user, whatever they say.
func userList(names []string, password string) string {
	var out strings.Builder
	double := strings.NewReplacer(`"`, `""`)
	for _, name := range names {
		fmt.Fprintf(&out, "\"%s\" \"%s\"\n", double.Replace(name), double.Replace(password))
	}
	return out.String()
}

// clientNames are those of a credential: its login, the login it alternates
// with, and what both have in common. A program keeps the name it read first.
func clientNames(login string) []string {
	names := []string{login}
	for _, pair := range [][2]string{{"_a", "_b"}, {"_b", "_a"}} {
		if base, found := strings.CutSuffix(login, pair[0]); found && base != "" {
			names = append(names, base, base+pair[1])
		}
	}
	return slices.DeleteFunc(names, func(name string) bool { return !usableUser(name) })
}

// private is the folder within State that is ours alone: State itself may be a
// volume that belongs to somebody else.
func (o Options) private() string { return filepath.Join(o.State, "pgbouncer") }

func (o Options) path(name string) string { return filepath.Join(o.private(), name) }

// prepareState makes the private folder, or refuses one that others can get at.
func (o Options) prepareState() error {
	if err := os.MkdirAll(o.private(), 0o700); err != nil {
		return fmt.Errorf("making the state folder: %w", err)
	}
	info, err := os.Lstat(o.private())
	if err != nil {
		return fmt.Errorf("reading the state folder: %w", err)
	}
	owner, known := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !known || int(owner.Uid) != os.Getuid() {
		return fmt.Errorf("using the state folder %s: it must be a folder of this account, with mode 0700", o.private())
	}
	return nil
}

// stage writes a file beside its place and has it on disk; put then gives it
// its name, which needs no space.
func (o Options) stage(name, content string) error {
	file, err := os.OpenFile(o.path(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	_, err = file.WriteString(content)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// clearStaged removes what never came into its place: it holds passwords.
func (o Options) clearStaged() {
	staged, _ := filepath.Glob(o.path("*.staged")) // a pattern that is always valid
	for _, path := range staged {
		_ = os.Remove(path) // it is overwritten when it stays
	}
}

func (o Options) put(staged, name string) error {
	if err := os.Rename(o.path(staged), o.path(name)); err != nil {
		return fmt.Errorf("putting %s in place: %w", name, err)
	}
	return nil
}

// write replaces a file that only needs to be whole. One that is right already
// stays: that works on a full disk too.
func (o Options) write(name, content string) error {
	if have, err := os.ReadFile(o.path(name)); err == nil && string(have) == content {
		return nil
	}
	if err := o.stage(name+".staged", content); err != nil {
		return err
	}
	return o.put(name+".staged", name)
}
