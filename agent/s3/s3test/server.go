// Package s3test runs a real S3 server with STS for a test: MinIO, whose
// sessions a test can end at any moment.
//
// It knows nothing of what is stored.
package s3test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/agent/s3"
	"github.com/berth-dev/berth/internal/testkit"
	"github.com/berth-dev/berth/process"
)

// Region is where all buckets are.
const Region = "us-east-1"

const startTimeout = time.Minute

// Server is a MinIO on 127.0.0.1 for one test.
type Server struct {
	URL string

	root    s3.Keys
	assumed atomic.Int64
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	program := testkit.Bin(t, "minio")
	if _, err := os.Stat(program); err != nil {
		t.Fatal("MinIO is not in bin: run `make tools`")
	}
	dir := testkit.OpenDir(t)
	s := &Server{root: s3.Keys{AccessKeyID: "root-" + rand.Text()[:10], SecretAccessKey: rand.Text()}}
	var log bytes.Buffer
	for range 3 { // another program may take the port that was free
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		_ = l.Close()
		p, err := process.Start(process.Spec{
			Path: program, Args: []string{"server", "--quiet", "--address", address, dir}, Dir: dir, Log: &log,
			Env: []string{"HOME=" + dir, "MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_ROOT_USER=" + s.root.AccessKeyID, "MINIO_ROOT_PASSWORD=" + s.root.SecretAccessKey},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Stop(0) }) // its folder is removed next
		s.URL = "http://" + address
		if s.awaitReady(t.Context(), p) == nil {
			return s
		}
		_ = p.Stop(0)
	}
	t.Fatalf("MinIO does not start: %s", log.String())
	return nil
}

func (s *Server) awaitReady(ctx context.Context, p *process.Process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if _, err := s.send(ctx, s.root, http.MethodGet, "/", nil, "s3"); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.Done():
			return errors.New("it ended")
		case <-again.C:
		}
	}
}

// Root is who may do everything. Its keys do not expire.
func (s *Server) Root() s3.Keys { return s.root }

// MakeBucket makes a bucket.
func (s *Server) MakeBucket(t testing.TB, name string) {
	t.Helper()
	if _, err := s.send(t.Context(), s.root, http.MethodPut, "/"+name, nil, "s3"); err != nil {
		t.Fatal(err)
	}
}

// Put stores an object, under a path that begins with its bucket.
func (s *Server) Put(t testing.TB, path string, content []byte) {
	t.Helper()
	if _, err := s.send(t.Context(), s.root, http.MethodPut, "/"+path, content, "s3"); err != nil {
		t.Fatal(err)
	}
}

// Assume begins a session that may only read, for 15 minutes. It is an s3.Source.
func (s *Server) Assume(ctx context.Context) (s3.Keys, error) {
	return s.AssumeWith(ctx, `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket","s3:GetBucketLocation"],"Resource":["arn:aws:s3:::*"]}]}`)
}

// AssumeWith begins a session with a policy of its own; empty is all rights.
func (s *Server) AssumeWith(ctx context.Context, policy string) (s3.Keys, error) {
	s.assumed.Add(1)
	form := url.Values{"Action": {"AssumeRole"}, "Version": {"2011-06-15"}, "DurationSeconds": {"900"}}
	if policy != "" {
		form.Set("Policy", policy)
	}
	answer, err := s.send(ctx, s.root, http.MethodPost, "/", []byte(form.Encode()), "sts")
	if err != nil {
		return s3.Keys{}, err
	}
	var said struct {
		Result struct {
			Credentials struct {
				AccessKeyID     string `xml:"AccessKeyId"`
				SecretAccessKey string
				SessionToken    string
				Expiration      time.Time
			}
		} `xml:"AssumeRoleResult"`
	}
	if err := xml.Unmarshal(answer, &said); err != nil {
		return s3.Keys{}, fmt.Errorf("reading a session: %w", err)
	}
	c := said.Result.Credentials
	return s3.Keys{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken, Expires: c.Expiration}, nil
}

// Assumed counts the sessions that were begun.
func (s *Server) Assumed() int64 { return s.assumed.Load() }

// Revoke ends every session there is: the server refuses them from now on.
func (s *Server) Revoke(t testing.TB) {
	t.Helper()
	path := "/minio/admin/v3/revoke-tokens/builtin?user=" + s.root.AccessKeyID + "&fullRevoke=true"
	if _, err := s.send(t.Context(), s.root, http.MethodPost, path, nil, "s3"); err != nil {
		t.Fatal(err)
	}
}

// Bucket says how to reach a bucket.
func (s *Server) Bucket(name, prefix string) s3.Bucket {
	return s3.Bucket{Endpoint: s.URL, Region: Region, Name: name, Prefix: prefix}
}

func (s *Server) send(ctx context.Context, keys s3.Keys, method, path string, body []byte, service string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
	if service == "sts" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if _, err := s3.Sign(r, keys, Region, service); err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		path, _, _ = strings.Cut(path, "?")
		err = fmt.Errorf("%s %s answered %s", method, path, response.Status)
	}
	return answer, err
}
