package s3

import (
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
)

// Traffic counts bytes. Raw is all that HTTP/1.1 carries, payload what objects
// are made of. It is safe for concurrent use.
type Traffic struct {
	SentRaw, SentPayload, ReceivedRaw, ReceivedPayload atomic.Uint64
}

// Totals are the counts at one moment, under the names that reports use.
type Totals struct {
	SentRaw         uint64 `json:"sent_raw_bytes"`
	SentPayload     uint64 `json:"sent_payload_bytes"`
	ReceivedRaw     uint64 `json:"received_raw_bytes"`
	ReceivedPayload uint64 `json:"received_payload_bytes"`
}

// Totals reads the counts.
func (t *Traffic) Totals() Totals {
	return Totals{t.SentRaw.Load(), t.SentPayload.Load(), t.ReceivedRaw.Load(), t.ReceivedPayload.Load()}
}

// Request counts the head of a signed request.
func (t *Traffic) Request(method, target, host string, h http.Header) {
	size := len(method) + len(target) + len("  HTTP/1.1\r\n") + fields(h) + len("\r\n")
	if host != "" {
		size += len("host: \r\n") + len(host)
	}
	t.SentRaw.Add(uint64(size))
}

// Response counts the head of a response.
func (t *Traffic) Response(status int, h http.Header) {
	t.ReceivedRaw.Add(uint64(len("HTTP/1.1  \r\n") + len(strconv.Itoa(status)) + len(http.StatusText(status)) + fields(h) + len("\r\n")))
}

// Received counts what is read from a response's body.
func (t *Traffic) Received(body io.ReadCloser) io.ReadCloser {
	return &counted{body, func(n uint64) { t.ReceivedRaw.Add(n); t.ReceivedPayload.Add(n) }}
}

func fields(h http.Header) int {
	size := 0
	for name, values := range h {
		for _, value := range values {
			size += len(name) + len(": \r\n") + len(value)
		}
	}
	return size
}

type counted struct {
	io.ReadCloser
	add func(uint64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.add(uint64(n))
	return n, err
}
