package credential

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// scramIterations is PostgreSQL's own default, so that a login costs the
// server what any other does.
const scramIterations = 4096

// Verifier is the SCRAM-SHA-256 verifier of password (RFC 5803, in the form
// PostgreSQL keeps in pg_authid.rolpassword). The server never sees the
// password itself. Passwords of NewPassword are ASCII, for which SASLprep
// (RFC 4013) changes nothing.
func Verifier(password string) string {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails since Go 1.24
	return verifier(password, salt, scramIterations)
}

func verifier(password string, salt []byte, iterations int) string {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil { // only for a key length that SHA-256 cannot have
		panic(err)
	}
	stored := sha256.Sum256(sign(salted, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(sign(salted, "Server Key")))
}

func sign(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
