package s3_test

import (
	"bytes"
	"crypto/sha256"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/agent/s3"
)

const exampleSecret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

// The published examples of Amazon.
func TestSignatures(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		method, url     string
		keys            s3.Keys
		service         string
		header          map[string]string
		signature       string
		chunks          []int // sizes, all of the letter a
		chunkSignatures []string
	}{
		"a request without anything": {
			method: http.MethodGet, url: "https://example.amazonaws.com/", service: "service",
			keys:      s3.Keys{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: strings.Replace(exampleSecret, "/b", "+b", 1)},
			header:    map[string]string{"X-Amz-Date": "20150830T123600Z"},
			signature: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
		},
		"an object in chunks": {
			method: http.MethodPut, url: "https://s3.amazonaws.com/examplebucket/chunkObject.txt", service: "s3",
			keys: s3.Keys{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: exampleSecret},
			header: map[string]string{
				"X-Amz-Date": "20130524T000000Z", "X-Amz-Storage-Class": "REDUCED_REDUNDANCY", "X-Amz-Content-Sha256": s3.SignedChunks,
				"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": "66560", "Content-Length": "66824",
			},
			signature: "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
			chunks:    []int{65536, 1024, 0},
			chunkSignatures: []string{
				"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
				"0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
				"b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := http.NewRequestWithContext(t.Context(), tc.method, tc.url, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			for key, value := range tc.header {
				r.Header.Set(key, value)
			}
			seal, err := s3.Sign(r, tc.keys, "us-east-1", tc.service)
			if err != nil {
				t.Fatal(err)
			}
			if seal.Signature != tc.signature || !strings.HasSuffix(r.Header.Get("Authorization"), "Signature="+tc.signature) {
				t.Errorf("signature = %s, want %s", seal.Signature, tc.signature)
			}
			var got []string
			for _, size := range tc.chunks {
				got = append(got, seal.Chunk(sha256.Sum256(bytes.Repeat([]byte("a"), size))))
			}
			if diff := cmp.Diff(tc.chunkSignatures, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSignReplacesTheSession(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ token, want string }{
		"with the token of the new one":   {"live", "live"},
		"and leaves none that is not its": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/bucket/a%20b?x&a=%2F", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Amz-Security-Token", "stale")
			if _, err := s3.Sign(r, s3.Keys{AccessKeyID: "a", SecretAccessKey: "b", SessionToken: tc.token}, "eu-west-1", "s3"); err != nil {
				t.Fatal(err)
			}
			if got := r.Header.Get("X-Amz-Security-Token"); got != tc.want {
				t.Errorf("token = %q, want %q", got, tc.want)
			}
			if strings.Contains(r.Header.Get("Authorization"), "x-amz-security-token") != (tc.want != "") {
				t.Errorf("signed headers do not follow the token: %s", r.Header.Get("Authorization"))
			}
		})
	}
}

func TestTrafficCountsWhatIsOnTheWire(t *testing.T) {
	t.Parallel()
	authorization := http.Header{"authorization": {"a"}}
	for name, tc := range map[string]struct {
		count          func(*s3.Traffic)
		sent, received uint64
	}{
		"a request with a host":    {func(c *s3.Traffic) { c.Request("GET", "/p", "h", authorization) }, 46, 0},
		"a request without a host": {func(c *s3.Traffic) { c.Request("GET", "/p?x=1", "", authorization) }, 41, 0},
		"a response":               {func(c *s3.Traffic) { c.Response(200, http.Header{"content-type": {"text/plain"}}) }, 0, 45},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var traffic s3.Traffic
			tc.count(&traffic)
			want := s3.Totals{SentRaw: tc.sent, ReceivedRaw: tc.received}
			if diff := cmp.Diff(want, traffic.Totals()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
