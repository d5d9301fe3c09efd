package credential

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"text/template"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Connection is what a tenant needs to log in; URI and DSN are its two written forms.
type Connection struct {
	Host, Database, Username, Password, SSLMode, CA string
	Port                                            uint16
	URI, DSN                                        string
}

// Keys that every published Secret has.
const (
	KeyDSN      = "dsn.txt"
	KeyURI      = "uri_dsn.txt"
	KeyHost     = "hostname"
	KeyPort     = "port"
	KeyDatabase = "database"
	KeyUsername = "username"
	KeyPassword = "password"
	KeySSLMode  = "sslmode"
)

// Data is the content of the tenant's Secret: the eight fixed keys and one for
// each template. A template that does not parse or run is an error that names
// its key and never shows a value.
func Data(c Connection, templates map[string]v1alpha1.Template) (map[string][]byte, error) {
	data := map[string][]byte{
		KeyDSN: []byte(c.DSN), KeyURI: []byte(c.URI),
		KeyHost: []byte(c.Host), KeyPort: []byte(strconv.Itoa(int(c.Port))),
		KeyDatabase: []byte(c.Database), KeyUsername: []byte(c.Username),
		KeyPassword: []byte(c.Password), KeySSLMode: []byte(c.SSLMode),
	}
	for key, text := range templates {
		value, err := render(string(text), c)
		if err != nil {
			return nil, fmt.Errorf("spec.secretTemplate[%s]: %w; write a Go template such as {{ .Host }}:{{ .Port }}", key, err)
		}
		data[key] = []byte(value)
	}
	return data, nil
}

// renderLimit bounds one templated value: a Secret holds 1 MiB in all.
const renderLimit = 16 << 10

func render(text string, c Connection) (string, error) {
	t, err := template.New("value").Option("missingkey=error").Funcs(template.FuncMap{
		"urlquery": url.QueryEscape,
		"b64enc":   func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	}).Parse(text)
	if err != nil {
		return "", fmt.Errorf("does not parse as a template")
	}
	var out strings.Builder
	if err := t.Execute(&limited{&out, renderLimit}, c); err != nil {
		return "", fmt.Errorf("does not run: only .Host .Port .Database .Username .Password .SSLMode .CA .URI .DSN exist, and a value may have 16 kB")
	}
	return out.String(), nil
}

// limited fails a write past its limit, so that no template can fill memory.
type limited struct {
	to   *strings.Builder
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, fmt.Errorf("value is too long")
	}
	l.left -= len(p)
	return l.to.Write(p)
}
