package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// Bucket says where objects are.
type Bucket struct {
	Endpoint string `yaml:"endpoint"` // https://HOST[:PORT]; empty: Amazon's for the region
	CAFile   string `yaml:"caFile"`   // authorities for Endpoint besides the system's
	Insecure bool   `yaml:"insecure"` // allows http to a host that is not loopback
	Region   string `yaml:"region"`
	Name     string `yaml:"bucket"`
	Prefix   string `yaml:"prefix"`
}

// Client reads objects of one bucket, below its prefix. A refused session is
// renewed once per generation, whoever notices it first.
type Client struct {
	bucket  Bucket
	base    *url.URL
	lease   *Lease
	http    *http.Client
	Traffic Traffic
}

// Stall is for how long a server may send nothing before a request is given up.
const Stall = time.Minute

// NewClient checks b, and sends nothing.
func NewClient(b Bucket, lease *Lease) (*Client, error) {
	base, err := Endpoint(b.Endpoint, b.Region, b.Insecure)
	if err != nil {
		return nil, err
	}
	if b.Name == "" {
		return nil, errors.New("opening a bucket: it has no name")
	}
	transport, err := Transport(b.CAFile)
	if err != nil {
		return nil, err
	}
	return &Client{bucket: b, base: base, lease: lease, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Endpoint is where a region's S3 is. Without TLS it must be on loopback,
// unless insecure says that another host may be trusted.
func Endpoint(endpoint, region string, insecure bool) (*url.URL, error) {
	if region == "" {
		return nil, errors.New("finding an S3 endpoint: no region is given")
	}
	if endpoint == "" {
		endpoint = "https://s3." + region + ".amazonaws.com"
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.Path != "" && u.Path != "/" || u.User != nil {
		return nil, fmt.Errorf("finding an S3 endpoint: it must be https://HOST[:PORT]")
	}
	u.Path = ""
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && !insecure && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("finding an S3 endpoint: %s is not on loopback, so it needs https", u.Host)
	}
	return u, nil
}

// Transport trusts the system's authorities and those in caFile, passes bodies
// on as they are, and knows no proxy of the environment.
func Transport(caFile string) (*http.Transport, error) {
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: Stall, ExpectContinueTimeout: time.Second,
		MaxIdleConnsPerHost: 32, IdleConnTimeout: 90 * time.Second, DisableCompression: true,
	}
	if caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("reading authorities: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading authorities: %s holds no certificate", caFile)
	}
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return t, nil
}

// Object describes one.
type Object struct {
	Key      string // without the bucket's prefix
	Size     int64
	Modified time.Time
}

// Get reads length bytes from offset, or all of it when length is negative.
// The caller closes what it gets, which ends early only with an error.
func (c *Client) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	header := http.Header{}
	if length >= 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	}
	response, err := c.do(ctx, http.MethodGet, key, nil, header)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// Head describes an object.
func (c *Client) Head(ctx context.Context, key string) (Object, error) {
	response, err := c.do(ctx, http.MethodHead, key, nil, nil)
	if err != nil {
		return Object{}, err
	}
	defer func() { _ = response.Body.Close() }()
	modified, _ := http.ParseTime(response.Header.Get("Last-Modified")) // zero: unknown
	return Object{Key: key, Size: response.ContentLength, Modified: modified}, nil
}

// List describes all objects whose key begins with prefix.
func (c *Client) List(ctx context.Context, prefix string) ([]Object, error) {
	var all []Object
	query := url.Values{"list-type": {"2"}, "prefix": {c.bucket.Prefix + prefix}, "encoding-type": {"url"}}
	for {
		page, err := c.listPage(ctx, query)
		if err != nil {
			return nil, err
		}
		for _, o := range page.Contents {
			key, err := url.QueryUnescape(o.Key)
			if err != nil || len(key) < len(c.bucket.Prefix) {
				return nil, errors.New("listing objects: the server gave a key that was not asked for")
			}
			all = append(all, Object{Key: key[len(c.bucket.Prefix):], Size: o.Size, Modified: o.LastModified})
		}
		if !page.IsTruncated {
			return all, nil
		}
		query.Set("continuation-token", page.NextContinuationToken)
	}
}

type listing struct {
	IsTruncated           bool
	NextContinuationToken string
	Contents              []struct {
		Key          string
		Size         int64
		LastModified time.Time
	}
}

func (c *Client) listPage(ctx context.Context, query url.Values) (listing, error) {
	var page listing
	response, err := c.do(ctx, http.MethodGet, "", query, nil)
	if err != nil {
		return page, err
	}
	defer func() { _ = response.Body.Close() }()
	if err := xml.NewDecoder(io.LimitReader(response.Body, 16<<20)).Decode(&page); err != nil {
		return page, fmt.Errorf("listing objects: %w", err)
	}
	if page.IsTruncated && page.NextContinuationToken == "" {
		return page, errors.New("listing objects: the list is cut and says not how it goes on")
	}
	return page, nil
}

// Error is what the server answered instead of success.
type Error struct {
	Status int
	Code   string // S3's, such as NoSuchKey; empty when it gave none
}

func (e *Error) Error() string { return fmt.Sprintf("S3 answered %d %s", e.Status, e.Code) }

// Dead reports whether the session is what the server refused, so that
// another may be let in. Amazon's answer to HEAD has no body that says so.
func (e *Error) Dead() bool {
	return e.Status == http.StatusBadRequest && e.Code == "" || slices.Contains([]string{"InvalidAccessKeyId", "InvalidTokenId", "InvalidToken", "ExpiredToken", "ExpiredTokenException"}, e.Code)
}

// ReadError reads what a refusing response says. It takes no more than an
// error's worth of the body.
func ReadError(response *http.Response, body io.Reader) *Error {
	e := &Error{Status: response.StatusCode, Code: response.Header.Get("X-Minio-Error-Code")}
	var said struct{ Code string }
	if xml.NewDecoder(io.LimitReader(body, 64<<10)).Decode(&said) == nil && said.Code != "" && len(said.Code) < 64 {
		e.Code = said.Code
	}
	return e
}

// refusals is how many sessions in a row may be refused before it is given up.
const refusals = 5

func (c *Client) do(ctx context.Context, method, key string, query url.Values, header http.Header) (*http.Response, error) {
	held, err := c.lease.Current(ctx)
	for n := 0; err == nil; n++ {
		var response *http.Response
		if response, err = c.send(ctx, held.Keys, method, key, query, header); err != nil {
			return nil, err
		}
		if response.StatusCode < 300 {
			return response, nil
		}
		refused := ReadError(response, response.Body)
		_ = response.Body.Close()
		if !refused.Dead() || n == refusals {
			return nil, refused
		}
		held, err = c.lease.After(ctx, held.Generation)
	}
	return nil, err
}

func (c *Client) send(ctx context.Context, keys Keys, method, key string, query url.Values, header http.Header) (*http.Response, error) {
	target := *c.base
	target.Path = "/" + c.bucket.Name
	if key != "" {
		target.Path += "/" + c.bucket.Prefix + key
	}
	target.RawPath = canonicalPath(target.Path)
	target.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	ctx, cancel := context.WithCancelCause(ctx)
	request, err := http.NewRequestWithContext(ctx, method, target.String(), http.NoBody)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("asking S3: %w", err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Header.Set("X-Amz-Content-Sha256", EmptyPayload)
	request.Header.Set("User-Agent", "berth")
	if _, err := Sign(request, keys, c.bucket.Region, "s3"); err != nil {
		cancel(nil)
		return nil, err
	}
	c.Traffic.Request(method, target.RequestURI(), target.Host, request.Header)
	response, err := c.http.Do(request)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("asking S3: %w", withoutURL(err))
	}
	c.Traffic.Response(response.StatusCode, response.Header)
	response.Body = watchStall(c.Traffic.Received(response.Body), cancel)
	return response, nil
}

// withoutURL drops the address that net/http puts before an error: it is long, and is known.
func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}
