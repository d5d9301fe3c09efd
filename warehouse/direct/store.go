package direct

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Store is an S3 server, as the administrator of its buckets sees it.
type Store struct {
	Endpoint string // https://HOST[:PORT]
	Region   string
	Keys     aws.CredentialsProvider
	HTTP     *http.Client // nil is one with a timeout
}

// ownerTag marks a bucket with the warehouse that it was made for.
const ownerTag = "berth.dev/warehouse"

const (
	storeTimeout = 10 * time.Second
	answerLimit  = 1 << 20
)

var patient = &http.Client{
	Timeout:       storeTimeout,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

type bucket struct {
	exists bool
	owner  string
}

type tagging struct {
	XMLName xml.Name `xml:"Tagging"`
	Tags    []tag    `xml:"TagSet>Tag"`
}

type tag struct{ Key, Value string }

// look tells whether a bucket is there, and whose it is.
func (s *Store) look(ctx context.Context, name string) (bucket, error) {
	code, body, err := s.ask(ctx, http.MethodGet, name, "tagging", nil)
	switch {
	case err != nil:
		return bucket{}, err
	case code == "NoSuchBucket":
		return bucket{}, nil
	case code == "NoSuchTagSet":
		return s.unmarked(ctx, name)
	case code != "":
		return bucket{}, fmt.Errorf("looking at bucket %s: the S3 server said %s", name, code)
	}
	var t tagging
	if err := xml.Unmarshal(body, &t); err != nil {
		return bucket{}, fmt.Errorf("looking at bucket %s: its tags do not parse", name)
	}
	b := bucket{exists: true}
	for _, tag := range t.Tags {
		if tag.Key == ownerTag {
			b.owner = tag.Value
		}
	}
	return b, nil
}

// unmarked tells a bucket without tags from none: not every server does so when
// it is asked for tags.
func (s *Store) unmarked(ctx context.Context, name string) (bucket, error) {
	code, _, err := s.ask(ctx, http.MethodGet, name, "location", nil)
	if err == nil && code != "" && code != "NoSuchBucket" {
		err = fmt.Errorf("looking at bucket %s: the S3 server said %s", name, code)
	}
	return bucket{exists: code == ""}, err
}

// make makes a bucket and marks it. One that is there and unmarked was left by
// an attempt that ended between the two.
func (s *Store) make(ctx context.Context, name, owner string) error {
	code, _, err := s.ask(ctx, http.MethodPut, name, "", nil)
	if err == nil && code != "" && code != "BucketAlreadyOwnedByYou" {
		err = fmt.Errorf("making bucket %s: the S3 server said %s", name, code)
	}
	if err != nil {
		return err
	}
	b, err := s.look(ctx, name)
	if err != nil || b.owner != "" {
		return err // somebody else's is told by who looks next
	}
	body, err := xml.Marshal(tagging{Tags: []tag{{ownerTag, owner}}})
	if err != nil {
		return err
	}
	code, _, err = s.ask(ctx, http.MethodPut, name, "tagging", body)
	if err == nil && code != "" {
		err = fmt.Errorf("marking bucket %s: the S3 server said %s", name, code)
	}
	return err
}

// remove deletes a bucket that is empty.
func (s *Store) remove(ctx context.Context, name string) error {
	code, _, err := s.ask(ctx, http.MethodDelete, name, "", nil)
	switch {
	case err != nil:
		return err
	case code == "BucketNotEmpty":
		return fmt.Errorf("deleting bucket %s: %w", name, errNotEmpty)
	case code != "" && code != "NoSuchBucket":
		return fmt.Errorf("deleting bucket %s: the S3 server said %s", name, code)
	}
	return nil
}

// ask sends a signed request. The code is S3's own, empty for success.
func (s *Store) ask(ctx context.Context, method, name, query string, body []byte) (code string, answer []byte, err error) {
	u, err := url.Parse(strings.TrimSuffix(s.Endpoint, "/") + "/" + name + "?" + query)
	if err != nil {
		return "", nil, fmt.Errorf("reading the S3 endpoint: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return "", nil, fmt.Errorf("asking for bucket %s: %w", name, err)
	}
	sum := sha256.Sum256(body)
	payload := hex.EncodeToString(sum[:])
	r.Header.Set("X-Amz-Content-Sha256", payload)
	if body != nil {
		check := md5.Sum(body) // S3 wants it for tags
		r.Header.Set("Content-MD5", base64.StdEncoding.EncodeToString(check[:]))
	}
	keys, err := s.Keys.Retrieve(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("asking for bucket %s: there are no credentials for the S3 server", name)
	}
	if err := v4.NewSigner().SignHTTP(ctx, keys, r, payload, "s3", s.Region, time.Now()); err != nil {
		return "", nil, fmt.Errorf("signing a request: %w", err)
	}
	via := s.HTTP
	if via == nil {
		via = patient
	}
	response, err := via.Do(r)
	if err != nil {
		return "", nil, fmt.Errorf("asking for bucket %s: the S3 server cannot be reached", name)
	}
	defer func() { _ = response.Body.Close() }()
	if answer, err = io.ReadAll(io.LimitReader(response.Body, answerLimit)); err != nil {
		return "", nil, fmt.Errorf("asking for bucket %s: the answer broke off", name)
	}
	if response.StatusCode/100 == 2 {
		return "", answer, nil
	}
	var fault struct{ Code string }
	if xml.Unmarshal(answer, &fault) != nil || fault.Code == "" {
		fault.Code = response.Status
	}
	return fault.Code, answer, nil
}
