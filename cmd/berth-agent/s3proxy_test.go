package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/agent/s3/s3test"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/process"
)

// broker hands out sessions of an S3 server to whoever has its token, and
// keeps what is reported.
type broker struct {
	*httptest.Server

	mu      sync.Mutex
	reports []string
}

func startBroker(t *testing.T, server *s3test.Server) *broker {
	t.Helper()
	b := &broker{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /internal/restore-creds", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Authorization") != "Bearer token" || string(body) != `{"group":"g","type":"t"}` {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		keys, err := server.Assume(r.Context())
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"repo_password": "p", "credentials": map[string]any{
			"Version": 1, "AccessKeyId": keys.AccessKeyID, "SecretAccessKey": keys.SecretAccessKey, "SessionToken": keys.SessionToken, "Expiration": keys.Expires,
		}})
	})
	mux.HandleFunc("POST /stats", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		b.mu.Lock()
		b.reports = append(b.reports, string(body))
		b.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})
	b.Server = httptest.NewServer(mux)
	t.Cleanup(b.Close)
	return b
}

// expectReport finds one report, of objects of this size in all.
func (b *broker) expectReport(t *testing.T, payload uint64) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.reports) != 1 {
		t.Fatalf("%d reports", len(b.reports))
	}
	var counts map[string]uint64
	if err := json.Unmarshal([]byte(b.reports[0]), &counts); err != nil {
		t.Fatal(err)
	}
	if len(counts) != 4 || counts["received_payload_bytes"] != payload || (counts["sent_raw_bytes"] > 0) != (payload > 0) || counts["sent_payload_bytes"] != 0 || counts["received_raw_bytes"] < payload {
		t.Errorf("reported %v, want a payload of %d", counts, payload)
	}
}

// settings of an s3proxy, and the folder of its port file.
func settings(t *testing.T, server *s3test.Server, b *broker) (dir string, env []string) {
	t.Helper()
	dir = t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, []string{
		"PATH=" + os.Getenv("PATH"), "AWS_SESSION_TOKEN=ambient", "AWS_ROLE_ARN=ambient",
		"BERTH_BROKER_URL=" + b.URL, "BERTH_TOKEN_FILE=" + token, "BERTH_GROUP=g", "BERTH_TYPE=t", "BERTH_REGION=" + s3test.Region,
		"BERTH_S3_UPSTREAM=" + server.URL, "BERTH_STATS_URL=" + b.URL + "/stats", "BERTH_PROXY_PORT_FILE=" + filepath.Join(dir, "run", "proxy-port"),
	}
}

func TestS3proxyTellsItsPortAndReportsAtItsEnd(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	server.MakeBucket(t, "backups")
	server.Put(t, "backups/x", make([]byte, 4321))
	b := startBroker(t, server)
	dir, env := settings(t, server, b)
	var log bytes.Buffer
	p, err := process.Start(process.Spec{Path: testkit.Agent(t), Args: []string{"s3proxy", "--listen=127.0.0.1:0"}, Env: env, Log: &log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(0) })
	port := awaitFile(t, filepath.Join(dir, "run", "proxy-port"))
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		t.Fatalf("port = %q", port)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:"+port+"/backups/x", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Date", time.Now().UTC().Format("20060102T150405Z"))
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil || len(body) != 4321 {
		t.Fatalf("%d bytes, %v", len(body), err)
	}
	if err := p.Stop(20 * time.Second); err != nil || p.Err() != nil {
		t.Errorf("it ended with %v, %v: %s", err, p.Err(), log.String())
	}
	b.expectReport(t, 4321)
}

func TestS3proxyRunsItsClient(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	server.MakeBucket(t, "backups")
	server.Put(t, "backups/x", make([]byte, 10))
	b := startBroker(t, server)
	_, env := settings(t, server, b)
	var out bytes.Buffer
	err := process.Run(t.Context(), process.Spec{Path: testkit.Agent(t), Env: env, Log: &out, Args: []string{
		"s3proxy", "--", "sh", "-c", `env | grep -E '^(AWS|BERTH_S3_ENDPOINT)' | sort | sed 's/:[0-9]*$/:PORT/'; exit 7`,
	}})
	var ended *exec.ExitError
	if !errors.As(err, &ended) || ended.ExitCode() != 7 {
		t.Errorf("ended with %v", err)
	}
	want := "AWS_ACCESS_KEY_ID=berth-proxy-dummy-access-key\nAWS_EC2_METADATA_DISABLED=true\nAWS_SECRET_ACCESS_KEY=berth-proxy-dummy-secret-key\nBERTH_S3_ENDPOINT=[::1]:PORT\n"
	if got := strings.ReplaceAll(out.String(), "127.0.0.1:PORT", "[::1]:PORT"); !strings.HasPrefix(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	b.expectReport(t, 0)
}

func TestS3proxyNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"BERTH_BROKER_URL", "BERTH_GROUP", "BERTH_TYPE", "BERTH_REGION", "BERTH_STATS_URL"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &s3proxyCmd{BrokerURL: "https://b", Group: "g", Type: "t", Region: "r", StatsURL: "https://s"}
			for field, at := range map[string]*string{"BERTH_BROKER_URL": &c.BrokerURL, "BERTH_GROUP": &c.Group, "BERTH_TYPE": &c.Type, "BERTH_REGION": &c.Region, "BERTH_STATS_URL": &c.StatsURL} {
				if field == name {
					*at = ""
				}
			}
			var ended exit
			if err := c.Run(); !errors.As(err, &ended) || ended.ExitCode() != 2 || ended.Error() != "s3proxy: "+name+" not set" {
				t.Errorf("got %v", err)
			}
		})
	}
}

func awaitFile(t *testing.T, path string) string {
	t.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-again.C {
		if text, err := os.ReadFile(path); err == nil {
			return string(text)
		}
	}
	t.Fatalf("%s did not come", path)
	return ""
}
