package rest

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Headers and cookies that carry a credential; those of the second name come
// from clients that were written for another server.
const (
	header        = "X-Berth-Internal-Secret"
	foreignHeader = "X-Duckgres-Internal-Secret"
	cookie        = "berth_admin_token"
	foreignCookie = "duckgres_admin_token"
	sessionLife   = 7 * 24 * time.Hour
)

// Secrets are what the API accepts. An empty string in them accepts nothing.
type Secrets struct {
	Internal []string // each may do everything; the first is the present one
	ReadOnly string   // may GET
}

// Check refuses secrets that would not do what they are called after.
func (s Secrets) Check() error {
	switch {
	case !slices.ContainsFunc(s.Internal, func(x string) bool { return x != "" }):
		return errors.New("there is no internal secret; set BERTH_INTERNAL_SECRET")
	case s.ReadOnly != "" && slices.Contains(s.Internal, s.ReadOnly):
		return errors.New("the read-only secret is also an internal secret; set another BERTH_READ_ONLY_SECRET")
	}
	return nil
}

// grant is what a credential may do.
type grant string

const (
	nobody grant = ""
	reader grant = "read-only"
	admin  grant = "internal"
)

// of compares with every secret, in a time that tells nothing of any.
func (s Secrets) of(presented string) grant {
	found := nobody
	given := sha256.Sum256([]byte(presented))
	match := func(secret string, g grant) {
		want := sha256.Sum256([]byte(secret))
		if subtle.ConstantTimeCompare(given[:], want[:]) == 1 && secret != "" {
			found = g
		}
	}
	match(s.ReadOnly, reader)
	for _, secret := range s.Internal {
		match(secret, admin)
	}
	return found
}

// session is a cookie's value: it says who until when, signed with the secret
// that made it, so that it ends with that secret and never shows it.
func (s Secrets) session(g grant, now time.Time) string {
	text := string(g) + "|" + strconv.FormatInt(now.Add(sessionLife).Unix(), 10)
	key := s.ReadOnly
	if g == admin {
		key = s.Internal[0]
	}
	return base64.RawURLEncoding.EncodeToString([]byte(text)) + "." + base64.RawURLEncoding.EncodeToString(sign(key, text))
}

func sign(secret, text string) []byte {
	mac := hmac.New(sha256.New, []byte("berth session\x00"+secret))
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// opened is what a session's value grants at now.
func (s Secrets) opened(value string, now time.Time) grant {
	payload, mac, _ := strings.Cut(value, ".")
	text, err := base64.RawURLEncoding.DecodeString(payload)
	signature, err2 := base64.RawURLEncoding.DecodeString(mac)
	who, until, ok := strings.Cut(string(text), "|")
	if err != nil || err2 != nil || !ok {
		return nobody
	}
	keys := s.Internal
	if grant(who) == reader {
		keys = []string{s.ReadOnly}
	}
	signed := slices.ContainsFunc(keys, func(key string) bool {
		return key != "" && hmac.Equal(signature, sign(key, string(text)))
	})
	end, err := strconv.ParseInt(until, 10, 64)
	if !signed || err != nil || !now.Before(time.Unix(end, 0)) {
		return nobody
	}
	return grant(who)
}

// presented is what a request may do. A header decides alone, right or wrong.
func (s Secrets) presented(r *http.Request, now time.Time) (g grant, byCookie bool) {
	for _, name := range []string{header, foreignHeader} {
		if values, there := r.Header[name]; there {
			return s.of(values[0]), false
		}
	}
	if c, err := r.Cookie(cookie); err == nil {
		if g := s.opened(c.Value, now); g != nobody {
			return g, true
		}
	}
	if c, err := r.Cookie(foreignCookie); err == nil {
		return s.of(c.Value), true
	}
	return nobody, false
}
