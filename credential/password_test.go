package credential

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestPasswords(t *testing.T) {
	t.Parallel()
	count := func(text, of string) (n int) {
		for _, c := range text {
			if strings.ContainsRune(of, c) {
				n++
			}
		}
		return n
	}
	for length := int32(15); length <= 99; length++ {
		for _, complexity := range []string{"enabled", "disabled", ""} {
			seen := map[string]bool{}
			for range 3 {
				p := NewPassword(v1alpha1.PasswordPolicy{Length: length, Complexity: complexity})
				name := fmt.Sprintf("length %d, complexity %q", length, complexity)
				if len(p) != int(length) || utf8.RuneCountInString(p) != int(length) {
					t.Errorf("%s: made %d bytes", name, len(p))
				}
				if seen[p] {
					t.Errorf("%s: made the same password twice", name)
				}
				seen[p] = true
				l, d, s := count(p, letters), count(p, digits), count(p, symbols)
				if l+d+s != len(p) {
					t.Errorf("%s: %d characters are neither letter, digit nor symbol", name, len(p)-l-d-s)
				}
				if complexity == "enabled" && (d != int(length)/4 || s != int(length)/4) {
					t.Errorf("%s: %d digits and %d symbols, want a quarter each", name, d, s)
				}
				if complexity != "enabled" && s > 0 {
					t.Errorf("%s: %d symbols, want none", name, s)
				}
			}
		}
	}
}

func TestPasswordsAreNeverShort(t *testing.T) {
	t.Parallel()
	for _, length := range []int32{-1, 0, 1, 14} {
		for _, complexity := range []string{"enabled", "disabled"} {
			if p := NewPassword(v1alpha1.PasswordPolicy{Length: length, Complexity: complexity}); len(p) != 15 {
				t.Errorf("length %d made %d characters, want 15", length, len(p))
			}
		}
	}
}

// Every place of a password can hold every kind of character: the kinds are
// shuffled, so that nobody knows which come first.
func TestPasswordsAreShuffled(t *testing.T) {
	t.Parallel()
	const tries = 400
	found := map[string]bool{}
	for range tries {
		p := NewPassword(v1alpha1.PasswordPolicy{Length: 16, Complexity: "enabled"})
		for i, c := range p {
			for kind, of := range map[string]string{"letter": letters, "digit": digits, "symbol": symbols} {
				if strings.ContainsRune(of, c) {
					found[fmt.Sprint(kind, i)] = true
				}
			}
		}
	}
	if len(found) != 3*16 {
		t.Errorf("in %d passwords only %d of 48 kinds and places came up", tries, len(found))
	}
}
