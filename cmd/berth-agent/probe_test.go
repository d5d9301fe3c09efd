package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, tc := range map[string]struct{ url, err string }{
		"succeeds when all is well":           {server.URL + "/healthz", ""},
		"fails when the answer is another":    {server.URL + "/other", "503"},
		"fails when nobody listens":           {gone.URL, "refused"},
		"refuses to look outside the pod":     {"http://192.0.2.1/healthz", "only loopback"},
		"refuses a name, which may lead away": {"http://localhost:1/healthz", "only loopback"},
		"refuses what is no address":          {"ftp://127.0.0.1", "must be http://"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := (&probeCmd{URL: tc.url}).Run()
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %v, want %q", err, tc.err)
			}
		})
	}
}
