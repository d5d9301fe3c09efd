package s3

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Values of X-Amz-Content-Sha256.
const (
	EmptyPayload = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	SignedChunks = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	timeLayout = "20060102T150405Z"
)

// Seal is how a request was signed; the signatures of its chunks follow from it.
type Seal struct {
	Signature string
	scope     string
	date      string
	key       []byte
}

// Sign signs r for a service of a region, at the time its X-Amz-Date gives,
// or now. The signature covers the host and every content- and x-amz- header;
// X-Amz-Content-Sha256 says what is known of the body.
// Nothing else of r changes but the headers that carry the session.
func Sign(r *http.Request, k Keys, region, service string) (Seal, error) {
	date := r.Header.Get("X-Amz-Date")
	if date == "" {
		date = time.Now().UTC().Format(timeLayout)
		r.Header.Set("X-Amz-Date", date)
	}
	if _, err := time.Parse(timeLayout, date); err != nil {
		return Seal{}, errors.New("signing a request: its x-amz-date is no time")
	}
	r.Header.Del("X-Amz-Security-Token")
	if k.SessionToken != "" {
		r.Header.Set("X-Amz-Security-Token", k.SessionToken)
	}
	payload := r.Header.Get("X-Amz-Content-Sha256")
	if payload == "" {
		payload = EmptyPayload
	}
	names, headers := canonicalHeaders(r)
	canonical := strings.Join([]string{r.Method, canonicalPath(r.URL.Path), canonicalQuery(r.URL.RawQuery), headers, names, payload}, "\n")
	seal := Seal{date: date, scope: date[:8] + "/" + region + "/" + service + "/aws4_request", key: signingKey(k.SecretAccessKey, date[:8], region, service)}
	sum := sha256.Sum256([]byte(canonical))
	seal.Signature = seal.sign(algorithm + "\n" + date + "\n" + seal.scope + "\n" + hex.EncodeToString(sum[:]))
	r.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s,SignedHeaders=%s,Signature=%s", algorithm, k.AccessKeyID, seal.scope, names, seal.Signature))
	return seal, nil
}

// Chunk signs the next chunk of a body, whose SHA-256 is sum. Chunks are
// signed in order, each over the one before; the last one is empty.
func (s *Seal) Chunk(sum [sha256.Size]byte) string {
	s.Signature = s.sign(algorithm + "-PAYLOAD\n" + s.date + "\n" + s.scope + "\n" + s.Signature + "\n" + EmptyPayload + "\n" + hex.EncodeToString(sum[:]))
	return s.Signature
}

func (s *Seal) sign(text string) string { return hex.EncodeToString(mac(s.key, text)) }

func signingKey(secret, day, region, service string) []byte {
	return mac(mac(mac(mac([]byte("AWS4"+secret), day), region), service), "aws4_request")
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func canonicalHeaders(r *http.Request) (names, lines string) {
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	values := map[string]string{"host": host}
	for name, all := range r.Header {
		name = strings.ToLower(name)
		if strings.HasPrefix(name, "x-amz-") || strings.HasPrefix(name, "content-") {
			trimmed := make([]string, len(all))
			for i, value := range all {
				trimmed[i] = strings.Join(strings.Fields(value), " ")
			}
			values[name] = strings.Join(trimmed, ",")
		}
	}
	ordered := make([]string, 0, len(values))
	for name := range values {
		ordered = append(ordered, name)
	}
	slices.Sort(ordered)
	var text strings.Builder
	for _, name := range ordered {
		text.WriteString(name + ":" + values[name] + "\n")
	}
	return strings.Join(ordered, ";"), text.String()
}

// canonicalPath escapes each byte that is not unreserved, once.
func canonicalPath(path string) string {
	if path == "" {
		return "/"
	}
	var text strings.Builder
	for _, b := range []byte(path) {
		if 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || strings.IndexByte("-_.~/", b) >= 0 {
			text.WriteByte(b)
		} else {
			fmt.Fprintf(&text, "%%%02X", b)
		}
	}
	return text.String()
}

// canonicalQuery orders parameters and leaves their escapes as they are.
func canonicalQuery(raw string) string {
	if raw == "" {
		return ""
	}
	parameters := strings.Split(raw, "&")
	for i, p := range parameters {
		if !strings.Contains(p, "=") {
			parameters[i] = p + "="
		}
	}
	slices.SortFunc(parameters, func(a, b string) int {
		nameA, valueA, _ := strings.Cut(a, "=")
		nameB, valueB, _ := strings.Cut(b, "=")
		return strings.Compare(nameA+"\x00"+valueA, nameB+"\x00"+valueB)
	})
	return strings.Join(parameters, "&")
}
