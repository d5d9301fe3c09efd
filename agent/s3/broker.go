package s3

import (
	"bytes"
	"context"
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

// Broker is the service that hands out sessions for a group's backups.
type Broker struct {
	URL       string `yaml:"url"`       // https://HOST[:PORT]; http only on loopback
	CAFile    string `yaml:"caFile"`    // authorities besides the system's
	TokenFile string `yaml:"tokenFile"` // holds the token that says who asks; read at each call, for it rotates
	Group     string `yaml:"group"`
	Type      string `yaml:"type"`
	RunID     string `yaml:"runId"` // optional

	client *http.Client
}

const brokerTimeout = 10 * time.Second

// Refusal is a broker's answer other than success. 403: nothing allows this
// group and type; 409: it has no backups yet; 502: its upstream fails.
type Refusal struct {
	Status  int
	Message string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("the broker answered %d: %s", r.Status, r.Message)
}

// Open checks b and reads its authorities.
func (b *Broker) Open() error {
	if err := checkPlain(b.URL); err != nil {
		return err
	}
	transport, err := Transport(b.CAFile)
	if err != nil {
		return err
	}
	b.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return nil
}

// checkPlain keeps tokens off a network that is not encrypted.
func checkPlain(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return errors.New("reading an address: it must be https://HOST[:PORT]")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("reading an address: %s is not on loopback, so it needs https", u.Host)
	}
	return nil
}

// Keys asks for a session. It is a Source.
func (b *Broker) Keys(ctx context.Context) (Keys, error) {
	request := map[string]string{"group": b.Group, "type": b.Type}
	if b.RunID != "" {
		request["run_id"] = b.RunID
	}
	text, err := b.Post(ctx, strings.TrimSuffix(b.URL, "/")+"/internal/restore-creds", request, brokerTimeout)
	if err != nil {
		return Keys{}, err
	}
	var answer struct {
		Credentials struct {
			AccessKeyId, SecretAccessKey, SessionToken string //nolint:revive // the names of the wire
			Expiration                                 time.Time
		}
		RepoPassword string `json:"repo_password"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return Keys{}, errors.New("reading credentials: the broker's answer is malformed")
	}
	c := answer.Credentials
	if c.AccessKeyId == "" || c.SecretAccessKey == "" || c.Expiration.IsZero() {
		return Keys{}, errors.New("reading credentials: the broker's answer lacks a key or its expiry")
	}
	return Keys{AccessKeyID: c.AccessKeyId, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken,
		Expires: c.Expiration, RepositoryPassword: answer.RepoPassword}, nil
}

// Post sends body as JSON, with the token, and gives the answer of a success.
func (b *Broker) Post(ctx context.Context, address string, body any, timeout time.Duration) ([]byte, error) {
	if err := checkPlain(address); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("writing a request: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("asking the broker: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	if b.TokenFile != "" {
		token, err := os.ReadFile(b.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("reading a token: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	response, err := b.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the broker: %w", withoutURL(err))
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("reading the broker's answer: %w", err)
	}
	if response.StatusCode/100 != 2 {
		return nil, &Refusal{Status: response.StatusCode, Message: message(answer)}
	}
	return answer, nil
}

// message is the reason in a refusal, which never holds a secret.
func message(body []byte) string {
	var said struct{ Error, Detail, Title string }
	_ = json.Unmarshal(body, &said) // what is not JSON says nothing
	for _, text := range []string{said.Error, said.Detail, said.Title} {
		if text != "" {
			return text[:min(len(text), 300)]
		}
	}
	return "without a reason"
}
