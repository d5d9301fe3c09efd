package step_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/step"
)

func TestMessagesAreBoundedAndValid(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		// Any bytes, often longer than what is kept, and often no valid UTF-8.
		text := strings.Repeat(string(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "bytes")), rapid.IntRange(1, 60).Draw(t, "times")) +
			rapid.StringN(0, 700, -1).Draw(t, "text")
		for name, o := range map[string]step.Outcome{
			"Wait": step.Wait(0, "R", "%s", text), "Blocked": step.Blocked("R", "%s", text), "Failed": step.Failed("R", errors.New(text)),
		} {
			got, ok := strings.CutPrefix(o.Text(), "R: ")
			if !ok || len(got) > 1000 || !utf8.ValidString(got) {
				t.Fatalf("%s kept %d bytes, valid %t", name, len(got), utf8.ValidString(got))
			}
			kept := strings.TrimSuffix(got, "…")
			whole := strings.ToValidUTF8(text, "?")
			if !strings.HasPrefix(whole, kept) || (len(whole) <= 1000 && got != whole) || (len(whole) > 1000 && len(got) < 994) {
				t.Fatalf("%s made %q of %q", name, got, text)
			}
		}
	})
}

func TestTextOfAnOutcome(t *testing.T) {
	t.Parallel()
	if got := step.Done().Text(); got != "" {
		t.Errorf("done says %q", got)
	}
	if got := step.Blocked("NotAllowed", "Ask for %d.", 2).Text(); got != "NotAllowed: Ask for 2." {
		t.Errorf("blocked says %q", got)
	}
}
