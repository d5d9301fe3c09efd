package s3proxy_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-dev/berth/agent/s3"
	"github.com/berth-dev/berth/agent/s3/s3test"
	"github.com/berth-dev/berth/agent/s3proxy"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/process"
)

// start runs a proxy before upstream until the test ends, or stop is called;
// stop gives what was reported.
func start(t *testing.T, upstream string, source s3.Source) (endpoint string, stop func() []s3.Totals) {
	t.Helper()
	to, err := url.Parse(upstream)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := s3.Transport("")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := s3proxy.Listen("")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var reports []s3.Totals
	go func() {
		ended <- s3proxy.Run(ctx, s3proxy.Options{
			Listener: listener, Upstream: to, Region: s3test.Region, Transport: transport, Lease: s3.NewLease(source), Grace: 10 * time.Second,
			Report: func(_ context.Context, totals s3.Totals) error { reports = append(reports, totals); return nil },
			Log:    slog.New(slog.DiscardHandler),
		})
	}()
	stop = sync.OnceValue(func() []s3.Totals {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		return reports
	})
	t.Cleanup(func() { stop() })
	return "http://" + listener.Addr().String(), stop
}

var dummy = s3.Keys{AccessKeyID: s3proxy.DummyAccessKey, SecretAccessKey: s3proxy.DummySecretKey}

// request is one that a client with the dummy pair signed.
func request(t *testing.T, method, address string, body []byte) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
	if _, err := s3.Sign(r, dummy, s3test.Region, "s3"); err != nil {
		t.Fatal(err)
	}
	return r
}

func do(t *testing.T, r *http.Request) (int, []byte) {
	t.Helper()
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

func TestObjectsPassUnchanged(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	server.MakeBucket(t, "backups")
	endpoint, stop := start(t, server.URL, func(ctx context.Context) (s3.Keys, error) { return server.AssumeWith(ctx, "") })
	content := make([]byte, 9<<20)
	_, _ = rand.Read(content)
	for _, name := range []string{"plain", "a%20b%2Bc%25", "deep/er"} {
		if status, body := do(t, request(t, http.MethodPut, endpoint+"/backups/"+name, content)); status != http.StatusOK {
			t.Fatalf("PUT %s answered %d: %s", name, status, body)
		}
		if status, body := do(t, request(t, http.MethodGet, endpoint+"/backups/"+name, nil)); status != http.StatusOK || !bytes.Equal(body, content) {
			t.Errorf("GET %s answered %d with %d bytes", name, status, len(body))
		}
	}
	response, err := http.DefaultClient.Do(request(t, http.MethodHead, endpoint+"/backups/plain", nil))
	if err != nil || response.ContentLength != int64(len(content)) {
		t.Errorf("HEAD: %v, length %d", err, response.ContentLength)
	}
	_ = response.Body.Close()
	if status, body := do(t, request(t, http.MethodGet, endpoint+"/backups?list-type=2&prefix=a%20b&x", nil)); status != http.StatusOK || !strings.Contains(string(body), "<KeyCount>1</KeyCount>") {
		t.Errorf("list answered %d: %s", status, body)
	}
	if status, _ := do(t, request(t, http.MethodDelete, endpoint+"/backups/plain", nil)); status != http.StatusNoContent {
		t.Errorf("DELETE answered %d", status)
	}
	if status, _ := do(t, request(t, http.MethodGet, endpoint+"/backups/plain", nil)); status != http.StatusNotFound {
		t.Errorf("GET of what is gone answered %d", status)
	}
	reports := stop()
	if len(reports) != 1 {
		t.Fatalf("%d reports", len(reports))
	}
	all := uint64(3 * len(content))
	if r := reports[0]; r.SentPayload != all || r.SentRaw <= all || r.ReceivedPayload < all || r.ReceivedRaw <= r.ReceivedPayload {
		t.Errorf("reported %+v of %d bytes each way", r, all)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	endpoint, _ := start(t, "http://127.0.0.1:1", s3.Fixed(s3.Keys{AccessKeyID: "a"}))
	denied, _ := start(t, "http://127.0.0.1:1", func(context.Context) (s3.Keys, error) {
		return s3.Keys{}, &s3.Refusal{Status: http.StatusForbidden, Message: "no declaration"}
	})
	for name, tc := range map[string]struct {
		endpoint string
		change   func(*http.Request)
		want     string
	}{
		"a method that S3 objects need not": {endpoint, func(r *http.Request) { r.Method = http.MethodPost }, "proxy error: method POST"},
		"a request without a time":          {endpoint, func(r *http.Request) { r.Header.Del("X-Amz-Date") }, "proxy error: the request has no x-amz-date"},
		"a time that is none":               {endpoint, func(r *http.Request) { r.Header.Set("X-Amz-Date", "now") }, "proxy error: signing"},
		"a body of unknown length": {endpoint, func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "PUT", io.NopCloser(strings.NewReader("x")), -1
		}, "proxy error: the request has no content-length"},
		"chunks whose trailer is signed":          {endpoint, func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", s3.SignedChunks+"-TRAILER") }, "proxy error: this form"},
		"an upstream that does not answer":        {endpoint, func(*http.Request) {}, "proxy error: asking 127.0.0.1:1"},
		"a session that the broker does not give": {denied, func(*http.Request) {}, "credential refresh failed: no credentials: the broker answered 403: no declaration"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := request(t, http.MethodGet, tc.endpoint+"/b/x", nil)
			tc.change(r)
			if status, body := do(t, r); status != http.StatusBadGateway || !strings.HasPrefix(string(body), tc.want) {
				t.Errorf("answered %d: %s; want %s", status, body, tc.want)
			}
		})
	}
}

func TestOnlyLoopbackIsListenedOn(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"0.0.0.0:0", "[::]:0", ":0", "localhost:0", "192.0.2.1:0", "127.0.0.1"} {
		if l, err := s3proxy.Listen(address); err == nil {
			_ = l.Close()
			t.Errorf("%s was opened", address)
		}
	}
}

// A body that breaks off upstream breaks off for the client too.
func TestACutObjectStaysCut(t *testing.T) {
	t.Parallel()
	for name, length := range map[string]string{"of a known length": "100000", "of an unknown length": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				_, _ = w.Write(make([]byte, 50000))
				panic(http.ErrAbortHandler)
			}))
			t.Cleanup(upstream.Close)
			endpoint, _ := start(t, upstream.URL, s3.Fixed(s3.Keys{AccessKeyID: "a"}))
			response, err := http.DefaultClient.Do(request(t, http.MethodGet, endpoint+"/b/x", nil))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }()
			if n, err := io.Copy(io.Discard, response.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d bytes ended with %v", n, err)
			}
		})
	}
}

// The stock kopia, which cannot renew anything, makes a repository, a snapshot
// and a restore while its sessions die all the time.
func TestKopiaOutlivesItsSessions(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	server.MakeBucket(t, "backups")
	endpoint, _ := start(t, server.URL, func(ctx context.Context) (s3.Keys, error) { return server.AssumeWith(ctx, "") })
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	digest := fill(t, source)

	ctx, cancel := context.WithCancel(t.Context())
	var revoking sync.WaitGroup
	revocations := 0
	revoking.Go(func() {
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				server.Revoke(t)
				revocations++
			}
		}
	})
	kopia(t, dir, "repository", "create", "s3", "--bucket=backups", "--region="+s3test.Region, "--endpoint="+strings.TrimPrefix(endpoint, "http://"),
		"--disable-tls", "--access-key="+s3proxy.DummyAccessKey, "--secret-access-key="+s3proxy.DummySecretKey)
	kopia(t, dir, "snapshot", "create", source)
	kopia(t, dir, "snapshot", "restore", "--snapshot-time=latest", source, filepath.Join(dir, "restored"))
	cancel()
	revoking.Wait()
	if got := sum(t, filepath.Join(dir, "restored")); got != digest {
		t.Error("the restored files differ")
	}
	if server.Assumed() < 3 || server.Assumed() > int64(revocations)+1 {
		t.Errorf("%d sessions for %d revocations", server.Assumed(), revocations)
	}
}

func fill(t *testing.T, dir string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for n := range 60 {
		content := make([]byte, 1+n*n*400)
		_, _ = rand.Read(content)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%02d", n)), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return sum(t, dir)
}

func sum(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "file*"))
	if err != nil || len(names) != 60 {
		t.Fatalf("%d files, %v", len(names), err)
	}
	all := sha256.New()
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(all, "%s %x\n", filepath.Base(name), sha256.Sum256(content))
	}
	return hex.EncodeToString(all.Sum(nil))
}

func kopia(t *testing.T, dir string, args ...string) {
	t.Helper()
	program := testkit.Bin(t, "kopia")
	if _, err := os.Stat(program); err != nil {
		t.Fatal("kopia is not in bin: run `make tools`")
	}
	var out bytes.Buffer
	err := process.Run(t.Context(), process.Spec{Path: program, Args: args, Dir: dir, Log: &out, Env: []string{
		"HOME=" + dir, "KOPIA_PASSWORD=secret", "KOPIA_CONFIG_PATH=" + filepath.Join(dir, "kopia.config"), "KOPIA_CHECK_FOR_UPDATES=false",
		"KOPIA_PERSIST_CREDENTIALS_ON_CONNECT=false", "KOPIA_CACHE_DIRECTORY=" + filepath.Join(dir, "cache"), "KOPIA_LOG_DIR=" + filepath.Join(dir, "log"),
	}})
	if err != nil {
		t.Fatalf("kopia %s: %v: %s", args[0], err, out.String())
	}
}
