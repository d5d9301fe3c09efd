package canopy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/canopy"
)

// stub is a service of the published contract. It keeps what it is told.
type stub struct {
	*httptest.Server
	captured chan string // METHOD PATH BODY
	devices  chan *x509.Certificate
}

func startStub(t *testing.T, answers map[string]string) *stub {
	t.Helper()
	s := &stub{captured: make(chan string, 100), devices: make(chan *x509.Certificate, 100)}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.captured <- r.Method + " " + r.URL.Path + " " + string(body)
		if len(r.TLS.PeerCertificates) == 0 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		s.devices <- r.TLS.PeerCertificates[0]
		answer, known := answers[r.URL.Path]
		status := http.StatusNoContent
		if status, answer, known = statusOf(answer, known, status); !known {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// statusOf takes an answer apart that begins with its status.
func statusOf(answer string, known bool, otherwise int) (int, string, bool) {
	status := otherwise
	if n, err := fmt.Sscanf(answer, "%d", &status); err == nil && n == 1 {
		_, answer, _ = strings.Cut(answer, " ")
	}
	return status, answer, known
}

func deviceKey(t *testing.T) ([]byte, *ecdsa.PublicKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), &key.PublicKey
}

func (s *stub) client(t *testing.T, key []byte) *canopy.Client {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := canopy.New(canopy.Options{BaseURL: s.URL + "/public/", CAFile: ca, DeviceKey: key})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheFourEndpoints(t *testing.T) {
	t.Parallel()
	s := startStub(t, map[string]string{
		"/public/restore-capabilities": "204 ", "/public/restore-worklist": "200 []", "/public/restore-verification": "204 ",
		"/public/restore-credentials": `200 {"credentials":{"Version":1,"AccessKeyId":"a","SecretAccessKey":"hidden","SessionToken":"hidden","Expiration":"2026-11-20T12:00:00Z"},"repo_password":"hidden"}`,
	})
	key, public := deviceKey(t)
	c := s.client(t, key)
	if err := c.Register(t.Context(), []canopy.Intent{{Intent: "verify"}}); err != nil {
		t.Error(err)
	}
	if entries, err := c.Worklist(t.Context()); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
	session, err := c.Credentials(t.Context(), "g", "t", "run")
	if err != nil || session.RepoPassword != "hidden" || !session.Credentials.Expiration.Equal(now) {
		t.Errorf("%v, %v", session, err)
	}
	if text := fmt.Sprintf("%v %+v %#v", session, &session, session); strings.Contains(text, "hidden") {
		t.Errorf("a session prints as %s", text)
	}
	received := int64(5)
	err = c.Report(t.Context(), canopy.Verification{Group: "g", ServerID: "s", Type: "t", Intent: "verify", Outcome: "success", ReplicaHealthy: true, ObservedAt: now, ReceivedRaw: &received})
	if err != nil {
		t.Error(err)
	}
	want := []string{
		`POST /public/restore-capabilities {"intents":[{"intent":"verify"}]}`, `GET /public/restore-worklist `,
		`POST /public/restore-credentials {"group":"g","run_id":"run","type":"t"}`,
		`POST /public/restore-verification {"group":"g","server_id":"s","type":"t","intent":"verify","outcome":"success","replica_healthy":true,"observed_at":"2026-11-20T12:00:00Z","s3_received_raw_bytes":5}`,
	}
	var got []string
	for range want {
		got = append(got, <-s.captured)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	device := <-s.devices
	if seen, ok := device.PublicKey.(*ecdsa.PublicKey); !ok || !seen.Equal(public) || device.Subject.CommonName != "device.local" ||
		len(device.DNSNames) != 1 || device.DNSNames[0] != "device.local" || device.NotAfter.Sub(device.NotBefore) != 6*24*time.Hour {
		t.Errorf("the device shows as %v, %v, %v to %v", device.Subject, device.DNSNames, device.NotBefore, device.NotAfter)
	}
}

func TestRefusalsAreTold(t *testing.T) {
	t.Parallel()
	for status, reason := range map[int]string{403: "no declaration", 409: "no backup yet", 502: "no secret store"} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			s := startStub(t, map[string]string{"/public/restore-credentials": fmt.Sprintf(`%d {"type":"about:blank","title":%q,"status":%d}`, status, reason, status)})
			key, _ := deviceKey(t)
			_, err := s.client(t, key).Credentials(t.Context(), "g", "t", "")
			var refused *canopy.Refusal
			if !errors.As(err, &refused) || refused.Status != status || refused.Reason != reason {
				t.Errorf("err = %v", err)
			}
		})
	}
}

func TestNonsenseIsNoWorklist(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"200 <html>", "200 null", "500 []", "302 []", "204 "} {
		s := startStub(t, map[string]string{"/public/restore-worklist": answer})
		key, _ := deviceKey(t)
		if entries, err := s.client(t, key).Worklist(t.Context()); err == nil {
			t.Errorf("%q was taken for %d entries", answer, len(entries))
		}
	}
}

func TestAServiceIsReachedSafely(t *testing.T) {
	t.Parallel()
	key, _ := deviceKey(t)
	s := startStub(t, map[string]string{"/restore-worklist": "200 []"})
	stranger, err := canopy.New(canopy.Options{BaseURL: s.URL, DeviceKey: key}) // its authority is not given
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Worklist(t.Context()); err == nil {
		t.Error("a certificate of an unknown authority was trusted")
	}
	if c, err := canopy.New(canopy.Options{}); c != nil || err != nil {
		t.Errorf("without an address: %v, %v", c, err)
	}
	for name, o := range map[string]canopy.Options{
		"without TLS":        {BaseURL: "http://canopy.example"},
		"a password in it":   {BaseURL: "https://a:b@canopy.example"},
		"a key that is none": {BaseURL: "https://canopy.example", DeviceKey: []byte("key")},
		"another proxy":      {BaseURL: "https://canopy.example", SOCKS5: "http://127.0.0.1:1"},
	} {
		if _, err := canopy.New(o); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestADeviceRenewsItsCertificate(t *testing.T) {
	t.Parallel()
	key, _ := deviceKey(t)
	day := 24 * time.Hour
	made, err := canopy.Certificates(key, now, now.Add(5*day-time.Second), now.Add(5*day), now.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if made[0] != made[1] || made[1] == made[2] || made[2] == made[3] {
		t.Error("certificates are not renewed after five days, and when the clock went back")
	}
}
