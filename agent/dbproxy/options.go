package dbproxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Options are the settings of one proxy; the tags are its command line.
type Options struct {
	Credentials        string        `required:"" env:"BERTH_DBPROXY_CREDENTIALS" placeholder:"DIR" help:"Folder at which the Secret is mounted (not by subPath, which never changes)."`
	Listen             string        `default:"127.0.0.1:5432" env:"BERTH_DBPROXY_LISTEN" help:"Loopback address for the tenant's program."`
	State              string        `default:"/run/berth/dbproxy" env:"BERTH_DBPROXY_STATE" help:"Folder for configuration and admin socket, in a folder below that is of this account alone. It holds the password: keep it in memory and out of other containers."`
	Pgbouncer          string        `default:"pgbouncer" env:"BERTH_DBPROXY_PGBOUNCER" help:"The pgbouncer program."`
	Pool               string        `enum:"transaction,session" default:"transaction" env:"BERTH_DBPROXY_POOL" help:"transaction, or session for clients that keep state in a session; then a client stays on the login it began with."`
	PoolSize           int           `default:"20" env:"BERTH_DBPROXY_POOL_SIZE" help:"Most connections to the server."`
	ClientAuth         string        `enum:"trust,scram" default:"trust" env:"BERTH_DBPROXY_CLIENT_AUTH" help:"trust, or scram to demand a password of clients."`
	ClientPasswordFile string        `env:"BERTH_DBPROXY_CLIENT_PASSWORD_FILE" help:"File with the password that clients must know, for scram."`
	ClientUsers        []string      `default:"app" env:"BERTH_DBPROXY_CLIENT_USERS" help:"User names clients may give, besides the credential's own; each acts as the credential's login."`
	DatabaseAlias      string        `env:"BERTH_DBPROXY_DATABASE_ALIAS" help:"Database name clients give. Unset: the credential's, or app where pgbouncer cannot take that."`
	Drain              time.Duration `default:"30s" env:"BERTH_DBPROXY_DRAIN" help:"On SIGTERM, time for clients to finish."`
	OldLoginLimit      time.Duration `default:"15m" env:"BERTH_DBPROXY_OLD_LOGIN_LIMIT" help:"Longest time a transaction may stay on the login before; then its session is ended. 0 is no limit. Not for session pooling."`
	Claim              string        `env:"BERTH_CLAIM" placeholder:"NAME" help:"The claim whose credential it is, for the switchboard."`
	Switchboard        string        `env:"BERTH_SWITCHBOARD" placeholder:"HOST:PORT" help:"Where berth's controller is told which login is in use, and says when to pause. Unset: nobody is told."`
	SwitchboardCA      string        `name:"switchboard-ca" env:"BERTH_SWITCHBOARD_CA" placeholder:"PEM" help:"Authorities by which the switchboard is verified."`
	SwitchboardToken   string        `env:"BERTH_SWITCHBOARD_TOKEN" placeholder:"FILE" help:"File with the pod's token for the switchboard."`
	HealthAddress      string        `default:"127.0.0.1:9127" env:"BERTH_DBPROXY_HEALTH_ADDRESS" help:"Loopback address of /healthz and /credential."`
	MetricsAddress     string        `default:"127.0.0.1:9129" env:"BERTH_DBPROXY_METRICS_ADDRESS" help:"Address of /metrics, such as :9129 to let Prometheus in. It names no login, host or database."`
	Revision           string        `kong:"-"` // of this program
}

// aliasForm is what pgbouncer takes as a database's name.
var aliasForm = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,63}$`)

// consoleName is the name of pgbouncer's admin console and of its user.
const consoleName = "pgbouncer"

func usableAlias(name string) bool { return aliasForm.MatchString(name) && name != consoleName }

// Validate names every setting that cannot be used, and what could be.
func (o Options) Validate() error {
	var problems []error
	refuse := func(setting, rule string) {
		problems = append(problems, fmt.Errorf("--%s %s", setting, rule))
	}
	if address, err := netip.ParseAddrPort(o.Listen); err != nil || !address.Addr().IsLoopback() || address.Port() == 0 {
		refuse("listen", "must be a loopback address with a port, such as 127.0.0.1:5432: whoever reaches it has the database")
	}
	if address, err := netip.ParseAddrPort(o.HealthAddress); err != nil || !address.Addr().IsLoopback() {
		refuse("health-address", "must be a loopback address with a port, such as 127.0.0.1:9127")
	}
	if _, _, err := net.SplitHostPort(o.MetricsAddress); err != nil {
		refuse("metrics-address", "must be an address with a port, such as 127.0.0.1:9129")
	}
	if !filepath.IsAbs(o.State) || strings.ContainsAny(o.State, "\n\r,") || len(o.socket()) > 107 {
		refuse("state", "must be an absolute path of at most 80 bytes, without comma or line break")
	}
	if o.Pool != "transaction" && o.Pool != "session" {
		refuse("pool", "must be transaction or session")
	}
	if o.PoolSize < 1 || o.PoolSize > 500 {
		refuse("pool-size", "must be from 1 to 500")
	}
	if o.Drain < time.Second {
		refuse("drain", "must be at least 1s")
	}
	if o.OldLoginLimit < 0 {
		refuse("old-login-limit", "must not be negative")
	}
	if (o.ClientAuth == "scram") != (o.ClientPasswordFile != "") {
		refuse("client-password-file", "must be given with --client-auth=scram, and only then")
	}
	for _, name := range o.ClientUsers {
		if !usableUser(name) {
			refuse("client-users", "must be names of 1 to 63 bytes, none of them pgbouncer")
		}
	}
	if o.DatabaseAlias != "" && !usableAlias(o.DatabaseAlias) {
		refuse("database-alias", "may hold letters, digits, '_', '.' and '-', and is not pgbouncer")
	}
	if _, _, err := net.SplitHostPort(o.Switchboard); o.Switchboard != "" && (err != nil || o.Claim == "" || o.SwitchboardCA == "" || o.SwitchboardToken == "") {
		refuse("switchboard", "must be HOST:PORT, and needs --claim, --switchboard-ca and --switchboard-token")
	}
	return errors.Join(problems...)
}

func usableUser(name string) bool {
	return name != "" && len(name) <= 63 && name != consoleName && writable(name)
}

func (o Options) port() uint16 {
	address, _ := netip.ParseAddrPort(o.Listen) // Validate has seen it
	return address.Port()
}

// socket is the admin console's; pgbouncer makes it.
func (o Options) socket() string {
	return filepath.Join(o.private(), ".s.PGSQL."+strconv.Itoa(int(o.port())))
}

// clientPassword is empty unless clients have to give one.
func (o Options) clientPassword() (string, error) {
	if o.ClientAuth != "scram" {
		return "", nil
	}
	text, err := os.ReadFile(o.ClientPasswordFile)
	if err != nil {
		return "", fmt.Errorf("reading the client password: %w", err)
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" || !writable(password) {
		return "", errors.New("reading the client password: it must be one line that is not empty")
	}
	return password, nil
}
