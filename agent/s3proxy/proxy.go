package s3proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/berth-dev/berth/agent/s3"
)

// refusals is how many sessions in a row the server may refuse for one request.
const refusals = 5

type proxy struct {
	upstream  *url.URL
	region    string
	transport http.RoundTripper
	lease     *s3.Lease
	traffic   s3.Traffic
}

var (
	methods = []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete}

	// What belongs to the client's own connection and signature, or is made anew.
	notForwarded = []string{"Host", "Authorization", "Content-Length", "Connection", "Accept-Encoding", "Transfer-Encoding", "Te",
		"Expect", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Trailer", "Upgrade", "X-Amz-Security-Token"}
	notReturned = []string{"Connection", "Transfer-Encoding", "Keep-Alive", "Trailer", "Upgrade"}
)

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	response, err := p.forward(r)
	if err != nil {
		text := "proxy error: " + err.Error()
		if errors.Is(err, s3.ErrNoKeys) {
			text = "credential refresh failed: " + err.Error()
		}
		http.Error(w, text, http.StatusBadGateway)
		return
	}
	defer func() { _ = response.Body.Close() }()
	for name, values := range response.Header {
		if !slices.Contains(notReturned, name) {
			w.Header()[name] = values
		}
	}
	if response.ContentLength >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(response.ContentLength, 10))
	}
	w.WriteHeader(response.StatusCode)
	if _, err := io.Copy(w, response.Body); err != nil {
		// To end well would make a cut object look whole.
		panic(http.ErrAbortHandler)
	}
}

// forward sends r upstream under the current session, and again under a newer
// one when the server refuses that and has taken nothing of the body.
func (p *proxy) forward(r *http.Request) (*http.Response, error) {
	if err := checkRequest(r); err != nil {
		return nil, err
	}
	body := &once{ReadCloser: r.Body}
	held, err := p.lease.Current(r.Context())
	for n := 0; err == nil; n++ {
		var response *http.Response
		if response, err = p.send(r, held.Keys, body); err != nil {
			return nil, err
		}
		if response.StatusCode != http.StatusForbidden && response.StatusCode != http.StatusBadRequest {
			return response, nil
		}
		said, readErr := io.ReadAll(io.LimitReader(response.Body, 64<<10))
		if readErr != nil {
			_ = response.Body.Close()
			return nil, fmt.Errorf("reading a refusal: %w", readErr)
		}
		if !s3.ReadError(response, bytes.NewReader(said)).Dead() || body.used.Load() || n == refusals {
			response.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(bytes.NewReader(said), response.Body), response.Body}
			return response, nil
		}
		_ = response.Body.Close()
		held, err = p.lease.After(r.Context(), held.Generation)
	}
	return nil, err
}

func checkRequest(r *http.Request) error {
	switch payload := r.Header.Get("X-Amz-Content-Sha256"); {
	case !slices.Contains(methods, r.Method):
		return fmt.Errorf("method %s is not among %s", r.Method, strings.Join(methods, ", "))
	case r.Header.Get("X-Amz-Date") == "":
		return errors.New("the request has no x-amz-date")
	case r.Method == http.MethodPut && r.ContentLength < 0:
		return errors.New("the request has no content-length")
	case strings.HasPrefix(payload, "STREAMING-") && payload != s3.SignedChunks && !strings.HasPrefix(payload, "STREAMING-UNSIGNED-"):
		return errors.New("this form of x-amz-content-sha256 is not supported")
	}
	return nil
}

// send makes a request of its own of what r asks: nothing of the client's
// signature and connection goes on.
func (p *proxy) send(r *http.Request, keys s3.Keys, body *once) (*http.Response, error) {
	target := &url.URL{Scheme: p.upstream.Scheme, Host: p.upstream.Host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	out, err := http.NewRequestWithContext(r.Context(), r.Method, target.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("reading the target: %w", err)
	}
	for name, values := range r.Header {
		if !slices.Contains(notForwarded, name) {
			out.Header[name] = values
		}
	}
	if out.Header.Get("X-Amz-Content-Sha256") == "" {
		out.Header.Set("X-Amz-Content-Sha256", s3.EmptyPayload)
	}
	if out.Header.Get("User-Agent") == "" {
		out.Header.Set("User-Agent", "") // else net/http names itself
	}
	seal, err := s3.Sign(out, keys, p.region, "s3")
	if err != nil {
		return nil, err
	}
	p.traffic.Request(out.Method, target.RequestURI(), target.Host, out.Header)
	if r.ContentLength > 0 {
		// The body waits until the server has taken the session, so that a
		// refused one costs nothing and the request can be sent again.
		out.Header.Set("Expect", "100-continue")
		content := p.body(body, out.Header.Get("X-Amz-Content-Sha256"), seal)
		out.ContentLength, out.Body = r.ContentLength, content
		out.GetBody = func() (io.ReadCloser, error) { // an idle connection was closed under the request
			if body.used.Load() {
				return nil, errors.New("the body is on its way already")
			}
			return content, nil
		}
	}
	response, err := p.transport.RoundTrip(out)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", target.Host, err)
	}
	p.traffic.Response(response.StatusCode, response.Header)
	response.Body = p.traffic.Received(response.Body)
	return response, nil
}

func (p *proxy) body(body *once, payload string, seal s3.Seal) io.ReadCloser {
	var content io.Reader = body
	if payload == s3.SignedChunks {
		content = newChunks(body, seal, func(n uint64) { p.traffic.SentPayload.Add(n) })
	}
	return &sent{Reader: content, traffic: &p.traffic, framed: payload == s3.SignedChunks}
}

// once is the client's body. It can go to the server a single time.
type once struct {
	io.ReadCloser
	used atomic.Bool
}

func (b *once) Read(p []byte) (int, error) {
	b.used.Store(true)
	return b.ReadCloser.Read(p)
}

// sent counts a body on its way.
type sent struct {
	io.Reader
	traffic *s3.Traffic
	framed  bool
}

func (s *sent) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.traffic.SentRaw.Add(uint64(n))
	if !s.framed {
		s.traffic.SentPayload.Add(uint64(n))
	}
	return n, err
}

// Close leaves the client's body to the server that took it.
func (s *sent) Close() error { return nil }
