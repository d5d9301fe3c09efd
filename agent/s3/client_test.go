package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/berth-dev/berth/agent/s3"
	"github.com/berth-dev/berth/agent/s3/s3test"
)

func newClient(t *testing.T, server *s3test.Server, prefix string, source s3.Source) *s3.Client {
	t.Helper()
	c, err := s3.NewClient(server.Bucket("backups", prefix), s3.NewLease(source))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func get(t *testing.T, c *s3.Client, key string, offset, length int64) (string, error) {
	t.Helper()
	body, err := c.Get(t.Context(), key, offset, length)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(body)
	return string(text), errors.Join(err, body.Close())
}

func TestClientReads(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	server.MakeBucket(t, "backups")
	for _, key := range []string{"p/a b+c%é", "p/x", "other"} {
		server.Put(t, "backups/"+strings.NewReplacer("%", "%25", " ", "%20", "+", "%2B").Replace(key), []byte("0123456789"))
	}
	for n := range 1005 { // more than a page
		server.Put(t, fmt.Sprintf("backups/many/%04d", n), nil)
	}
	c := newClient(t, server, "p/", server.Assume)
	if got, err := get(t, c, "a b+c%é", 2, 3); err != nil || got != "234" {
		t.Errorf("range = %q, %v", got, err)
	}
	if got, err := get(t, c, "x", 0, -1); err != nil || got != "0123456789" {
		t.Errorf("whole = %q, %v", got, err)
	}
	if o, err := c.Head(t.Context(), "x"); err != nil || o.Size != 10 || o.Modified.IsZero() {
		t.Errorf("head = %+v, %v", o, err)
	}
	objects, err := c.List(t.Context(), "")
	if err != nil || len(objects) != 2 || objects[0].Key != "a b+c%é" || objects[1].Size != 10 {
		t.Errorf("list = %+v, %v", objects, err)
	}
	if many, err := newClient(t, server, "", server.Assume).List(t.Context(), "many/"); err != nil || len(many) != 1005 {
		t.Errorf("%d objects, %v", len(many), err)
	}
	var refused *s3.Error
	if _, err := get(t, c, "none", 0, -1); !errors.As(err, &refused) || refused.Status != http.StatusNotFound || refused.Code != "NoSuchKey" {
		t.Errorf("err = %v", err)
	}
	if got := server.Assumed(); got != 2 {
		t.Errorf("%d sessions for two clients", got)
	}
}

// Sessions die while 8 readers are at work: nothing fails, and each death
// costs one new session.
func TestClientOutlivesItsSessions(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	server.MakeBucket(t, "backups")
	content := bytes.Repeat([]byte("berth"), 20_000)
	server.Put(t, "backups/x", content)
	c := newClient(t, server, "", server.Assume)
	const deaths = 5
	for range deaths {
		var readers sync.WaitGroup
		for range 8 {
			readers.Go(func() {
				for range 5 {
					if got, err := get(t, c, "x", 0, -1); err != nil || got != string(content) {
						t.Errorf("%d bytes, %v", len(got), err)
					}
				}
			})
		}
		readers.Wait()
		server.Revoke(t)
	}
	if got := server.Assumed(); got != deaths {
		t.Errorf("%d sessions, want %d", got, deaths)
	}
	if totals := c.Traffic.Totals(); totals.ReceivedPayload < uint64(deaths*40*len(content)) || totals.SentRaw == 0 || totals.ReceivedRaw <= totals.ReceivedPayload {
		t.Errorf("traffic = %+v", totals)
	}
}

func TestClientGivesUpOnAServerThatRefusesEverySession(t *testing.T) {
	t.Parallel()
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests++
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, "<Error><Code>ExpiredToken</Code></Error>")
	}))
	t.Cleanup(server.Close)
	c, err := s3.NewClient(s3.Bucket{Endpoint: server.URL, Region: "r", Name: "b"}, s3.NewLease((&issuer{}).keys))
	if err != nil {
		t.Fatal(err)
	}
	var refused *s3.Error
	if _, err := get(t, c, "x", 0, -1); !errors.As(err, &refused) || refused.Code != "ExpiredToken" {
		t.Errorf("err = %v", err)
	}
	if requests != 6 {
		t.Errorf("%d requests", requests)
	}
}

func TestClientSeesACutBody(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write(make([]byte, 50))
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(server.Close)
	c, err := s3.NewClient(s3.Bucket{Endpoint: server.URL, Region: "r", Name: "b"}, s3.NewLease(s3.Fixed(s3.Keys{AccessKeyID: "a"})))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, c, "x", 0, -1); err == nil {
		t.Errorf("%d bytes were taken for whole", len(got))
	}
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		endpoint, region string
		insecure         bool
		want             string
	}{
		"Amazon's for the region":              {"", "eu-west-1", false, "https://s3.eu-west-1.amazonaws.com"},
		"one of its own, with TLS":             {"https://s3.example:9000", "r", false, "https://s3.example:9000"},
		"without TLS on loopback":              {"http://127.0.0.1:9000", "r", false, "http://127.0.0.1:9000"},
		"without TLS elsewhere, when trusted":  {"http://minio:9000", "r", true, "http://minio:9000"},
		"not without TLS elsewhere":            {"http://minio:9000", "r", false, ""},
		"not a name that may not be loopback":  {"http://localhost:9000", "r", false, ""},
		"not without a region":                 {"https://s3.example", "", false, ""},
		"not with a password in it":            {"https://a:b@s3.example", "r", false, ""},
		"not with a path, which holds buckets": {"https://s3.example/bucket", "r", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := s3.Endpoint(tc.endpoint, tc.region, tc.insecure)
			if (err == nil) != (tc.want != "") || err == nil && u.String() != tc.want {
				t.Errorf("got %v, %v", u, err)
			}
		})
	}
}

func TestUnreachableServerIsAnErrorWithoutItsAddress(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	c, err := s3.NewClient(s3.Bucket{Endpoint: "http://" + l.Addr().String(), Region: "r", Name: "b"}, s3.NewLease(s3.Fixed(s3.Keys{AccessKeyID: "a"})))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, c, "x", 0, -1); err == nil || strings.Contains(err.Error(), "/b/x") {
		t.Errorf("err = %v", err)
	}
}
