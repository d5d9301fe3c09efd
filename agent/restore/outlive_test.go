package restore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/agent/restore"
	"github.com/berth-dev/berth/agent/s3"
	"github.com/berth-dev/berth/agent/s3/s3test"
	"github.com/berth-dev/berth/process"
)

// A worker that is killed at ten random moments is carried on by the next, and
// what comes out is verified.
func TestAKilledWorkerIsCarriedOn(t *testing.T) {
	t.Parallel()
	j := frozen(t, 15).job(t)
	text, err := yaml.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "job.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	killed, scratches := 0, map[string]bool{}
	for range 10 {
		var log bytes.Buffer
		p, err := process.Start(process.Spec{Path: self, Env: append(os.Environ(), asWorker+"="+file), Log: &log})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.Done():
		case <-time.After(time.Duration(rand.IntN(4000)) * time.Millisecond):
			killed++
		}
		if err := p.Stop(0); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(j.Target, ".berth", "result.json"))
		state, _ := os.ReadFile(filepath.Join(j.Target, ".berth", "state.json")) // none yet, perhaps
		if _, path, found := strings.Cut(string(state), `"scratch":"`); found {
			path, _, _ = strings.Cut(path, `"`)
			scratches[path] = true
		}
		var r restore.Result
		if err == nil && json.Unmarshal(text, &r) == nil && r.Verdict != restore.Verified && r.Verdict != "" {
			t.Errorf("a killed worker left a good backup called %s: %s", r.Verdict, r.Message)
		}
	}
	expect(t, run(t, j), restore.Verified, "", "")
	t.Logf("%d of 10 were killed", killed)
	for path := range scratches {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	leftovers, err := filepath.Glob(filepath.Join(j.Target, "data", "*", "*.berth-part"))
	if err != nil || len(leftovers) > 0 {
		t.Errorf("left behind: %v, %v", leftovers, err)
	}
}

// What a worker fetched before its end is not fetched again.
func TestFilesThatAreThereAreNotFetchedAgain(t *testing.T) {
	t.Parallel()
	remote := newRemote(t)
	j := remote.job(t)
	j.Parallel = 1
	ctx, cancel := context.WithCancel(t.Context())
	first, err := restore.Run(ctx, j, func(p restore.Progress) {
		if p.Stage == "fetch" && p.Bytes > p.BytesTotal/2 {
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, first, "", restore.Interrupted, "")
	if first.Traffic.ReceivedPayload == 0 || !first.Retry {
		t.Errorf("first: %+v, retry %v", first.Traffic, first.Retry)
	}
	second := run(t, j)
	expect(t, second, restore.Verified, "", "")
	if whole := uint64(second.Bytes); second.Traffic.ReceivedPayload > whole*3/4 {
		t.Errorf("the second run received %d bytes of %d", second.Traffic.ReceivedPayload, whole)
	}
}

// remote is the origin's repository in S3, behind a network that can fail.
type remote struct {
	origin
	server *s3test.Server
	proxy  *httputil.ReverseProxy
	url    string
	broker *s3.Broker
	status atomic.Int32 // of the broker; zero is success

	mu    sync.Mutex
	fault func(http.ResponseWriter, *http.Request) bool // true: it has answered
}

func newRemote(t *testing.T) *remote {
	t.Helper()
	r := &remote{origin: frozen(t, 15), server: s3test.Start(t)}
	r.server.MakeBucket(t, "backups")
	err := filepath.WalkDir(r.repository(), func(file string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".f") {
			return err
		}
		// kopia's folders hold the first letters of a blob's name.
		name := strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(file, r.repository()+"/"), ".f"), "/", "")
		text, err := os.ReadFile(file)
		r.server.Put(t, "backups/pre fix/"+name, text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(r.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.proxy = &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(to)
		p.Out.Host = p.In.Host // it is signed
	}}
	r.url = serve(t, r.pass)
	r.broker = &s3.Broker{URL: serve(t, r.keys), Group: "g", Type: "t"}
	return r
}

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return "http://" + l.Addr().String()
}

func (r *remote) pass(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	fault := r.fault
	r.mu.Unlock()
	if fault == nil || !fault(w, request) {
		r.proxy.ServeHTTP(w, request)
	}
}

func (r *remote) keys(w http.ResponseWriter, request *http.Request) {
	if status := r.status.Load(); status != 0 {
		w.WriteHeader(int(status))
		_, _ = w.Write([]byte(`{"error":"why"}`))
		return
	}
	k, err := r.server.Assume(request.Context())
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"repo_password": repositoryPassword, "credentials": map[string]any{
		"Version": 1, "AccessKeyId": k.AccessKeyID, "SecretAccessKey": k.SecretAccessKey, "SessionToken": k.SessionToken, "Expiration": k.Expires,
	}})
}

func (r *remote) job(t *testing.T) restore.Job {
	t.Helper()
	j := r.origin.job(t)
	bucket := r.server.Bucket("backups", "pre fix/")
	bucket.Endpoint = r.url
	j.Repository = restore.Repository{S3: &restore.Bucket{Bucket: bucket, Broker: r.broker}}
	return j
}

// Sessions die, connections are cut, the server says to slow down: all of it
// while a restore runs, and none of it shows.
func TestARestoreOutlivesItsNetwork(t *testing.T) {
	t.Parallel()
	remote := newRemote(t)
	var requests atomic.Int64
	remote.fault = func(w http.ResponseWriter, _ *http.Request) bool {
		switch n := requests.Add(1); {
		case n%17 == 0:
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte("<Error><Code>SlowDown</Code></Error>"))
			return true
		case n%23 == 0:
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(make([]byte, 1000))
			panic(http.ErrAbortHandler)
		case n%29 == 0:
			panic(http.ErrAbortHandler)
		case n%50 == 0:
			remote.server.Revoke(t)
		}
		return false
	}
	r := run(t, remote.job(t))
	expect(t, r, restore.Verified, "", "")
	if remote.server.Assumed() < 2 || requests.Load() < 100 {
		t.Errorf("%d sessions, %d requests: nothing was survived", remote.server.Assumed(), requests.Load())
	}
	if r.Traffic.ReceivedPayload == 0 || r.Traffic.SentPayload != 0 {
		t.Errorf("traffic = %+v", r.Traffic)
	}
}

func TestCredentialsThatAreRefusedSayNothingOfTheBackup(t *testing.T) {
	t.Parallel()
	remote := newRemote(t)
	for status, reason := range map[int32]restore.Reason{http.StatusForbidden: restore.CredentialsDenied, http.StatusConflict: restore.CredentialsDenied} {
		remote.status.Store(status)
		r := run(t, remote.job(t))
		expect(t, r, "", reason, "why")
		if !r.Retry {
			t.Errorf("%d is not tried again", status)
		}
	}
	remote.status.Store(0)
	remote.fault = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte("<Error><Code>AccessDenied</Code></Error>"))
		return true
	}
	expect(t, run(t, remote.job(t)), "", restore.CredentialsDenied, "AccessDenied")
}
