package dbproxy

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
	"os"
	"strings"
)

func (l *link) post(ctx context.Context, client *http.Client, path string, body any) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("calling the switchboard: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+l.o.Switchboard+path, bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("calling the switchboard: %w", err)
	}
	token, err := os.ReadFile(l.o.SwitchboardToken) // each time: the kubelet renews it
	if err != nil {
		return nil, fmt.Errorf("reading the token: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("calling the switchboard: %w", err)
	}
	if answer.StatusCode/100 != 2 {
		reason, _ := io.ReadAll(io.LimitReader(answer.Body, 300))
		_ = answer.Body.Close()
		return nil, fmt.Errorf("calling the switchboard: it answers %d: %s", answer.StatusCode, strings.TrimSpace(string(reason)))
	}
	return answer, nil
}

// authorities is where newer ones than those of the pod's making are kept: it
// lives as long as the pod.
const authorities = "switchboard-ca.crt"

func (l *link) client() (*http.Client, error) {
	roots := x509.NewCertPool()
	kept, _ := os.ReadFile(l.o.path(authorities)) // there may be none yet
	if !roots.AppendCertsFromPEM([]byte(l.o.SwitchboardCA)) && !roots.AppendCertsFromPEM(kept) {
		return nil, errors.New("calling the switchboard: there is no authority to verify it by")
	}
	roots.AppendCertsFromPEM(kept)
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
			DialContext: (&net.Dialer{Timeout: callLimit}).DialContext, TLSHandshakeTimeout: callLimit, ResponseHeaderTimeout: 2 * callLimit,
		},
	}, nil
}

func (l *link) trust(bundle string) {
	if bundle == "" {
		return
	}
	if err := l.o.write(authorities, bundle); err != nil {
		l.log.Warn("keeping the switchboard's authorities", "error", err)
	}
}
