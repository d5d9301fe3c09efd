package dsnexec

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/template"

	"github.com/jackc/pgx/v5"
)

// templateFault is an error of ours, which holds keys but no value: the errors
// of text/template may quote what a function was given.
type templateFault string

func (f templateFault) Error() string { return string(f) }

// functions are the few of sprig that DSN work needs, under the same names and
// with the same order of arguments, and two that quote SQL. None reads the
// environment.
var functions = template.FuncMap{
	"index":      index,
	"upper":      strings.ToUpper,
	"lower":      strings.ToLower,
	"trim":       strings.TrimSpace,
	"trimPrefix": func(prefix, s string) string { return strings.TrimPrefix(s, prefix) },
	"trimSuffix": func(suffix, s string) string { return strings.TrimSuffix(s, suffix) },
	"replace":    func(from, to, s string) string { return strings.ReplaceAll(s, from, to) },
	"contains":   func(part, s string) bool { return strings.Contains(s, part) },
	"hasPrefix":  func(prefix, s string) bool { return strings.HasPrefix(s, prefix) },
	"hasSuffix":  func(suffix, s string) bool { return strings.HasSuffix(s, suffix) },
	"b64enc":     func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
	"b64dec": func(s string) (string, error) {
		decoded, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return "", templateFault("b64dec: the value is not base64")
		}
		return string(decoded), nil
	},
	"default": func(otherwise, v any) any {
		if truth, ok := template.IsTrue(v); ok && truth {
			return v
		}
		return otherwise
	},
	"required": func(message string, v any) (any, error) {
		if truth, ok := template.IsTrue(v); ok && truth {
			return v, nil
		}
		return nil, templateFault(message)
	},
	"quote":      func(v any) string { return strconv.Quote(fmt.Sprint(v)) },
	"squote":     func(v any) string { return "'" + fmt.Sprint(v) + "'" },
	"toString":   func(v any) string { return fmt.Sprint(v) },
	"identifier": func(s string) string { return pgx.Identifier{s}.Sanitize() },
	"literal":    literal,
}

// literal quotes s for PostgreSQL whatever standard_conforming_strings is.
func literal(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return " E'" + strings.ReplaceAll(s, `\`, `\\`) + "'"
	}
	return "'" + s + "'"
}

// index goes down from v by keys. Unlike the one of text/template it refuses a
// key that is missing, instead of writing <no value> into a statement.
func index(v any, keys ...any) (any, error) {
	for _, key := range keys {
		switch in := v.(type) {
		case map[string]any:
			name, isText := key.(string)
			inner, there := in[name]
			if !isText || !there {
				return nil, templateFault(fmt.Sprintf("index: there is no %q", key))
			}
			v = inner
		case []any:
			at, isNumber := key.(int)
			if !isNumber || at < 0 || at >= len(in) {
				return nil, templateFault(fmt.Sprintf("index: there is no item %v", key))
			}
			v = in[at]
		default:
			return nil, templateFault(fmt.Sprintf("index: nothing is below %q", key))
		}
	}
	return v, nil
}

func parseTemplate(text string) (*template.Template, error) {
	return template.New("").Option("missingkey=error").Funcs(functions).Parse(text)
}

func checkTemplate(key, text string) error {
	if _, err := parseTemplate(text); err != nil {
		return fmt.Errorf("%s: is no template: %s", key, strings.TrimPrefix(err.Error(), "template: :"))
	}
	return nil
}

// fill runs the template text; its error names key and holds no value.
func fill(key, text string, context map[string]any) (string, error) {
	t, err := parseTemplate(text)
	if err != nil {
		return "", checkTemplate(key, text)
	}
	var out strings.Builder
	if err := t.Execute(&out, context); err != nil {
		var fault templateFault
		if errors.As(err, &fault) {
			return "", fmt.Errorf("%s: %w", key, fault)
		}
		return "", fmt.Errorf("%s: the template does not run on these sources", key)
	}
	return out.String(), nil
}

// widths are the casts that an argument may begin with.
var widths = []struct {
	prefix string
	bits   int
	cast   func(int64) any
}{
	{"int64:", 64, func(n int64) any { return n }},
	{"int32:", 32, func(n int64) any { return int32(n) }},
	{"int16:", 16, func(n int64) any { return int16(n) }},
	{"int8:", 8, func(n int64) any { return int8(n) }},
	{"int:", 64, func(n int64) any { return int(n) }},
}

// fillArg runs an argument's template. The cast is read from the template
// itself: a value that happens to begin with int: stays a text.
func fillArg(key, text string, context map[string]any) (any, error) {
	for _, w := range widths {
		rest, ok := strings.CutPrefix(text, w.prefix)
		if !ok {
			continue
		}
		value, err := fill(key, rest, context)
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, w.bits)
		if err != nil {
			return nil, fmt.Errorf("%s: the value is not a number that %s can hold", key, strings.TrimSuffix(w.prefix, ":"))
		}
		return w.cast(n), nil
	}
	return fill(key, text, context)
}
