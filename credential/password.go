package credential

import (
	"crypto/rand"
	"math/big"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const (
	letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	digits  = "0123456789"
	// symbols that need no escape in a key=value DSN; a URI escapes what it must.
	symbols = "~#%^&*()_+-={}|[]:<>?,."
)

// NewPassword makes a password by policy. With complexity enabled a quarter
// each are digits and symbols; otherwise it is letters and digits. Characters
// may repeat, so every length from 15 to 99 can be made.
func NewPassword(policy v1alpha1.PasswordPolicy) string {
	length := int(max(policy.Length, 15))
	out := make([]byte, 0, length)
	if policy.Complexity == "enabled" {
		out = draw(out, length/4, digits)
		out = draw(out, length/4, symbols)
		out = draw(out, length-len(out), letters)
	} else {
		out = draw(out, length, letters+digits)
	}
	for i := len(out) - 1; i > 0; i-- {
		j := below(i + 1)
		out[i], out[j] = out[j], out[i]
	}
	return string(out)
}

func draw(out []byte, n int, from string) []byte {
	for range n {
		out = append(out, from[below(len(from))])
	}
	return out
}

func below(n int) int {
	i, err := rand.Int(rand.Reader, big.NewInt(int64(n)))
	if err != nil { // crypto/rand ends the program before it returns an error
		panic(err)
	}
	return int(i.Int64())
}
