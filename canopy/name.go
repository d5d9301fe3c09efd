package canopy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

const slugLimit = 50

// Namespace is where the replica of a server is: its name in readable form,
// and what tells it from all others. It has at most 59 characters.
func Namespace(replicaID, serverID, name string) (string, error) {
	replica, err := uuidBytes(replicaID)
	if err != nil {
		return "", fmt.Errorf("reading replica_id: %w", err)
	}
	server, err := uuidBytes(serverID)
	if err != nil {
		return "", fmt.Errorf("reading server_id: %w", err)
	}
	sum := sha256.Sum256(append(replica, server...))
	return slug(name) + "-" + hex.EncodeToString(sum[:4]), nil
}

// slug keeps ASCII letters and digits, and makes one dash of all else between.
func slug(name string) string {
	var text strings.Builder
	dash := false
	for _, b := range []byte(strings.ToLower(asciiOnly(name))) {
		if b >= 'a' && b <= 'z' || b >= '0' && b <= '9' {
			if dash && text.Len() > 0 {
				text.WriteByte('-')
			}
			dash = false
			text.WriteByte(b)
			continue
		}
		dash = true
	}
	s := text.String()
	s = strings.TrimRight(s[:min(len(s), slugLimit)], "-")
	if s == "" {
		return "replica"
	}
	return s
}

// asciiOnly keeps lower-casing from turning another letter, such as the Kelvin
// sign, into one of ASCII.
func asciiOnly(name string) string {
	return strings.Map(func(r rune) rune {
		if r > 127 {
			return ' '
		}
		return r
	}, name)
}

func uuidBytes(text string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != 16 || len(text) != 36 {
		return nil, fmt.Errorf("%.40q is no UUID", text)
	}
	return b, nil
}
