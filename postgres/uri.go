package postgres

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

func verbatim(s string) (string, bool) { return s, true }

// unescape decodes %XX. A plus stays a plus, as in libpq.
func unescape(s string) (string, bool) {
	if !strings.Contains(s, "%") {
		return s, true
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out = append(out, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil || n == 0 {
			return "", false
		}
		out = append(out, byte(n))
		i += 2
	}
	return string(out), utf8.Valid(out)
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

func escape(s string) string {
	var out strings.Builder
	for _, c := range []byte(s) {
		if unreserved(c) {
			out.WriteByte(c)
			continue
		}
		out.WriteByte('%')
		out.WriteByte("0123456789ABCDEF"[c>>4])
		out.WriteByte("0123456789ABCDEF"[c&15])
	}
	return out.String()
}

// URI is the postgresql:// form, password included. ParseDSN gives t back,
// but for the root CA.
func (t Target) URI() string {
	var out strings.Builder
	out.WriteString("postgresql://")
	if t.User != "" || t.Password != "" {
		out.WriteString(escape(t.User))
		if t.Password != "" {
			out.WriteString(":" + escape(t.Password))
		}
		out.WriteString("@")
	}
	if strings.Contains(t.Host, ":") && !strings.HasPrefix(t.Host, "/") {
		out.WriteString("[" + strings.ReplaceAll(escape(t.Host), "%3A", ":") + "]")
	} else {
		out.WriteString(escape(t.Host))
	}
	out.WriteString(":" + strconv.Itoa(int(t.Port)))
	if t.Database != "" {
		out.WriteString("/" + escape(t.Database))
	}
	if t.SSLMode != "" {
		out.WriteString("?sslmode=" + t.SSLMode)
	}
	return out.String()
}

// KeyValue is the keyword form of libpq, password included. ParseDSN gives t
// back, but for the root CA.
func (t Target) KeyValue() string {
	var out []string
	for _, s := range [][2]string{
		{"host", t.Host}, {"port", strconv.Itoa(int(t.Port))}, {"user", t.User},
		{"password", t.Password}, {"dbname", t.Database}, {"sslmode", t.SSLMode},
	} {
		if s[1] != "" {
			out = append(out, s[0]+"="+quoteValue(s[1]))
		}
	}
	return strings.Join(out, " ")
}

func quoteValue(s string) string {
	if !strings.ContainsAny(s, asciiSpace+`'\`) {
		return s
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
