package credential

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const secretPassword = "s3cret'p@ss word/"

func sample() Connection {
	return Connection{
		Host: "db.example.org", Port: 6432, Database: "orders db", Username: "orders_a", Password: secretPassword, SSLMode: "verify-full",
		CA: "-----BEGIN CERTIFICATE-----", URI: "the URI, as it was given", DSN: "the DSN, as it was given",
	}
}

func TestDataHasExactlyTheEightKeys(t *testing.T) {
	t.Parallel()
	data, err := Data(sample(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"dsn.txt": "the DSN, as it was given", "uri_dsn.txt": "the URI, as it was given", "hostname": "db.example.org", "port": "6432",
		"database": "orders db", "username": "orders_a", "password": secretPassword, "sslmode": "verify-full",
	}
	if diff := cmp.Diff(want, words(data)); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
}

func words(data map[string][]byte) map[string]string {
	all := map[string]string{}
	for key, value := range data {
		all[key] = string(value)
	}
	return all
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ template, want string }{
		"plain text stays":                    {"no template at all", "no template at all"},
		"an empty template is an empty value": {"", ""},
		"every field is there": {
			"{{.Host}} {{.Port}} {{.Database}} {{.Username}} {{.Password}} {{.SSLMode}} {{.CA}} {{.URI}} {{.DSN}}",
			"db.example.org 6432 orders db orders_a " + secretPassword + " verify-full -----BEGIN CERTIFICATE----- the URI, as it was given the DSN, as it was given",
		},
		"urlquery escapes for a URL": {"{{ .Password | urlquery }}", url.QueryEscape(secretPassword)},
		"b64enc encodes":             {"{{ b64enc .Password }}", base64.StdEncoding.EncodeToString([]byte(secretPassword))},
		"nothing is escaped as HTML": {"{{ .Password }}", secretPassword},
		"a value may have 16 kB":     {strings.Repeat("x", 16<<10), strings.Repeat("x", 16<<10)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := Data(sample(), map[string]v1alpha1.Template{"extra": v1alpha1.Template(tc.template)})
			if err != nil {
				t.Fatal(err)
			}
			if got := string(data["extra"]); got != tc.want || len(data) != 9 {
				t.Errorf("made %q with %d keys, want %q with 9", got, len(data), tc.want)
			}
		})
	}
}

func TestTemplatesThatFail(t *testing.T) {
	t.Parallel()
	for name, template := range map[string]string{
		"one that does not parse":            "{{ .Host",
		"one that does not parse after some": "{{ .Password }} {{ end }}",
		"an unknown field":                   "{{ .Password }}{{ .Nothing }}",
		"an unknown function":                "{{ env .Password }}",
		"a bad index":                        `{{ index .Password 900 }}`,
		"a call that shows the value":        `{{ .Password.Foo }}`,
		"one value too long":                 "{{ .Password }}" + strings.Repeat("x", 16<<10),
		"one that grows without end":         `{{ define "x" }}{{ .Password }}{{ template "x" . }}{{ end }}{{ template "x" . }}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := Data(sample(), map[string]v1alpha1.Template{"extra.txt": v1alpha1.Template(template), "fine": "{{ .Host }}"})
			if err == nil {
				t.Fatalf("made %d keys", len(data))
			}
			if text := err.Error(); !strings.HasPrefix(text, "spec.secretTemplate[extra.txt]: does not ") {
				t.Errorf("the error does not name its key: %s", text)
			}
			if strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "p@ss") {
				t.Error("the error shows the password")
			}
		})
	}
}
