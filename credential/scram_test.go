package credential

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strings"
	"testing"
)

// The exchange of RFC 7677, section 3, for user "user" with password "pencil".
const (
	rfcSalt      = "W22ZaJ0SNY7soEsUEjb6gQ=="
	rfcMessage   = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	rfcProof     = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	rfcSignature = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
)

// A verifier is right when the RFC's client proof opens its stored key, and its
// server key makes the RFC's server signature; the password is in neither.
func TestVerifierMatchesRFC7677(t *testing.T) {
	t.Parallel()
	salt := decode(t, rfcSalt)
	verifier := verifier("pencil", salt, 4096)
	stored, server := keysOf(t, verifier)

	mac := hmac.New(sha256.New, stored)
	mac.Write([]byte(rfcMessage))
	clientKey := make([]byte, sha256.Size)
	subtle.XORBytes(clientKey, decode(t, rfcProof), mac.Sum(nil))
	if opened := sha256.Sum256(clientKey); !hmac.Equal(opened[:], stored) {
		t.Error("the RFC's proof does not open the stored key")
	}
	mac = hmac.New(sha256.New, server)
	mac.Write([]byte(rfcMessage))
	if !hmac.Equal(mac.Sum(nil), decode(t, rfcSignature)) {
		t.Error("the server key does not make the RFC's signature")
	}
	if want := "SCRAM-SHA-256$4096:" + rfcSalt + "$"; !strings.HasPrefix(verifier, want) {
		t.Errorf("the verifier does not begin with %s", want)
	}
}

func TestVerifiersHaveTheirOwnSalt(t *testing.T) {
	t.Parallel()
	one, two := Verifier("the same"), Verifier("the same")
	if one == two {
		t.Error("two verifiers of one password are equal")
	}
	if strings.Contains(one, "the same") {
		t.Error("the verifier holds the password")
	}
}

// keysOf are the stored key and the server key of a verifier.
func keysOf(t testing.TB, verifier string) (stored, server []byte) {
	t.Helper()
	parts := strings.Split(verifier, "$")
	if len(parts) != 3 {
		t.Fatal("the verifier does not have three parts")
	}
	first, second, _ := strings.Cut(parts[2], ":")
	return decode(t, first), decode(t, second)
}

func decode(t testing.TB, text string) []byte {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
