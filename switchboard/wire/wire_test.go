package wire_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/switchboard/wire"
)

const password = "pa55word-of-the-target"

var directive = wire.Directive{Verb: wire.Retarget, Generation: 7, Target: &wire.Target{
	Host: "db", Port: 5432, Database: "orders", User: "orders_a", Password: password, RootCA: []byte("pem"),
}}

func TestNothingPrintsAPassword(t *testing.T) {
	t.Parallel()
	line := wire.Line{Session: "s", Directive: &directive}
	var out bytes.Buffer
	for _, value := range []any{directive, &directive, *directive.Target, directive.Target, line, &line} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			fmt.Fprintf(&out, verb+"\n", value)
		}
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("it says", "value", value)
		}
	}
	for _, form := range []string{password, fmt.Sprintf("%x", password), strings.Trim(fmt.Sprintf("%d", []byte(password)), "[]")} {
		if strings.Contains(out.String(), form) {
			t.Errorf("a password is shown:\n%s", out.String())
		}
	}
	if !strings.Contains(out.String(), "retarget of generation 7 to orders_a@db:5432/orders") {
		t.Errorf("it does not say what it is:\n%s", out.String())
	}
}

func TestADirectiveArrivesWhole(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(wire.Line{Directive: &directive})
	if err != nil {
		t.Fatal(err)
	}
	var got wire.Line
	if err := json.Unmarshal(bytes.Replace(text, []byte("{"), []byte(`{"ofLater":1,`), 1), &got); err != nil {
		t.Fatal(err)
	}
	type plain wire.Target // as data, without its form for people
	if diff := cmp.Diff(plain(*directive.Target), plain(*got.Directive.Target)); diff != "" || got.Directive.Generation != 7 {
		t.Error(diff)
	}
}
