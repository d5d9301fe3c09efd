package rest_test

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestThePagesTellTheReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	id := w.id("acme")
	w.ask("POST", "/api/v1/orgs/"+id+"/provision", aurora)
	w.becomes(id, func(o *v1alpha1.Warehouse) {
		failed(o)
		o.Status.Conditions = conditions("False", v1alpha1.Ready, v1alpha1.Provisioned)
	})
	for path, says := range map[string][]string{
		"/?q=" + id:   {id, "failed", "Bucket acme: AccessDenied", "DatabaseClaim"},
		"/orgs/" + id: {id, "failed", "Bucket acme: AccessDenied", "Provisioned", "role=\"status\"", "root"},
		"/docs":       {"/api/v1/orgs/{id}/provision"},
	} {
		page := w.ask("GET", path, "", "Accept: text/html")
		if page.Status != 200 || page.Header.Get("Content-Security-Policy") == "" || !strings.HasPrefix(page.Text, "<!doctype html>\n<html lang=\"en\">") {
			t.Errorf("%s is %d, or no page", path, page.Status)
		}
		for _, text := range says {
			if !strings.Contains(page.Text, text) {
				t.Errorf("%s lacks %q", path, text)
			}
		}
		for _, elsewhere := range []string{"http://", "https://", "<script>", "style=", secret} {
			if strings.Contains(page.Text, elsewhere) {
				t.Errorf("%s holds %q", path, elsewhere)
			}
		}
		if err := wellFormed(page.Text); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for path, status := range map[string]int{"/orgs/nobody": 404, "/nothing": 404, "/live.js": 200, "/style.css": 200} {
		if got := w.ask("GET", path, "", "Accept: text/html"); got.Status != status {
			t.Errorf("%s is %d", path, got.Status)
		}
	}
}

// wellFormed finds a tag that is not closed, or a text that is not escaped.
func wellFormed(page string) error {
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
