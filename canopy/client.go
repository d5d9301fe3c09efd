// Package canopy speaks to a canopy service: which replicas must exist, the
// sessions to read their backups with, and what became of them.
//
// It decides what follows from a worklist, purely, and carries nothing out. No
// secret that passes through it is in an error or in printed text.
package canopy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Options say how to reach a service, and as whom.
type Options struct {
	BaseURL   string // https; http only on loopback. Empty: there is no service
	CAFile    string // authorities besides the system's
	DeviceKey []byte // PEM of an EC P-256 key: the device's identity
	SOCKS5    string // socks5://HOST:PORT; used for hosts of *.ts.net alone
}

// Client asks one service. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

const (
	timeout     = 30 * time.Second
	answerLimit = 16 << 20 // bytes; a worklist of 20,000 replicas has about 12 MB
)

// New checks o, and sends nothing. Without a BaseURL it gives nil: the caller
// has nothing to ask, and nothing to complain about.
func New(o Options) (*Client, error) {
	if o.BaseURL == "" {
		return nil, nil
	}
	u, err := url.Parse(o.BaseURL)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("reading the canopy address: it must be https://HOST[:PORT][/PATH]")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("reading the canopy address: %s is not on loopback, so it needs https", u.Host)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		if config.RootCAs, err = authorities(o.CAFile); err != nil {
			return nil, err
		}
	}
	if len(o.DeviceKey) > 0 {
		d, err := newDevice(o.DeviceKey, time.Now)
		if err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return d.certificate() }
	}
	transport := &http.Transport{
		TLSClientConfig: config, TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
	}
	if o.SOCKS5 != "" {
		through, err := url.Parse(o.SOCKS5)
		if err != nil || through.Scheme != "socks5" || through.Host == "" {
			return nil, errors.New("reading the SOCKS5 address: it must be socks5://HOST:PORT")
		}
		transport.Proxy = func(r *http.Request) (*url.URL, error) {
			if strings.HasSuffix(r.URL.Hostname(), ".ts.net") {
				return through, nil
			}
			return nil, nil
		}
	}
	return &Client{base: strings.TrimSuffix(o.BaseURL, "/"), http: &http.Client{
		Timeout: timeout, Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func authorities(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading authorities: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading authorities: %s holds no certificate", file)
	}
	return pool, nil
}

// Refusal is an answer other than success.
type Refusal struct {
	Path   string
	Status int
	Reason string // RFC 7807's title and detail
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("canopy %s answered %d: %s", r.Path, r.Status, r.Reason)
}

// Intent is something this side can do with a backup.
type Intent struct {
	Intent      string               `json:"intent"`
	Description string               `json:"description,omitempty"`
	Semantics   []string             `json:"semantics,omitempty"`
	Params      map[string]Parameter `json:"params,omitempty"`
}

// Parameter is a setting of an intent.
type Parameter struct {
	Type    string `json:"type"` // duration, bytes, boolean, integer or text
	Default any    `json:"default,omitempty"`
}

// Register replaces what the service knows this side can do.
func (c *Client) Register(ctx context.Context, intents []Intent) error {
	_, err := c.ask(ctx, http.MethodPost, "/restore-capabilities", map[string]any{"intents": intents})
	return err
}

// Worklist is all that must exist. Whatever is not a whole, sound list is an
// error: what follows from it is taken down.
func (c *Client) Worklist(ctx context.Context) ([]Entry, error) {
	answer, err := c.ask(ctx, http.MethodGet, "/restore-worklist", nil)
	if err != nil {
		return nil, err
	}
	return ParseWorklist(answer)
}

// Session is a leave to read the backups of a group.
type Session struct {
	Credentials struct {
		Version         int
		AccessKeyId     string //nolint:revive // the name on the wire
		SecretAccessKey string
		SessionToken    string
		Expiration      time.Time
	} `json:"credentials"`
	RepoPassword string `json:"repo_password"`
}

// String shows no secret.
func (s Session) String() string { return "session of " + s.Credentials.AccessKeyId }

// GoString is String.
func (s Session) GoString() string { return s.String() }

// Credentials asks for a session. A Refusal of 403 means that no declaration
// covers group and type, 409 that there is no backup yet, 502 that the
// service's own source fails.
func (c *Client) Credentials(ctx context.Context, group, kind, runID string) (Session, error) {
	request := map[string]string{"group": group, "type": kind}
	if runID != "" {
		request["run_id"] = runID
	}
	answer, err := c.ask(ctx, http.MethodPost, "/restore-credentials", request)
	if err != nil {
		return Session{}, err
	}
	var s Session
	if json.Unmarshal(answer, &s) != nil || s.Credentials.AccessKeyId == "" || s.Credentials.SecretAccessKey == "" || s.Credentials.Expiration.IsZero() {
		return Session{}, errors.New("reading canopy's credentials: they are malformed")
	}
	return s, nil
}

// Report tells what became of a restore. The service drops one that it has
// already, by its run.
func (c *Client) Report(ctx context.Context, v Verification) error {
	_, err := c.ask(ctx, http.MethodPost, "/restore-verification", v)
	return err
}

func (c *Client) ask(ctx context.Context, method, path string, body any) ([]byte, error) {
	var content io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("asking canopy: %w", err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return nil, fmt.Errorf("asking canopy: %w", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking canopy %s: %w", path, withoutURL(err))
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, answerLimit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading canopy's answer: %w", err)
	case len(answer) > answerLimit:
		return nil, fmt.Errorf("reading canopy's answer: it has more than %d bytes", answerLimit)
	case response.StatusCode/100 != 2:
		return nil, &Refusal{Path: path, Status: response.StatusCode, Reason: reason(answer)}
	}
	return answer, nil
}

func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// reason is what a problem document says, and nothing of any other body.
func reason(body []byte) string {
	var said struct{ Title, Detail, Error string }
	if json.Unmarshal(body, &said) != nil {
		return "without a reason"
	}
	text := strings.Join(strings.Fields(said.Title+" "+said.Detail+" "+said.Error), " ")
	if text == "" {
		return "without a reason"
	}
	return text[:min(len(text), 300)]
}
