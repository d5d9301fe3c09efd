package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// terminal is where a command reads and writes.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	asks     bool // a person answers on in
	live     bool // err can rewrite its last line
	color    bool // out shows colours
	width    int  // columns of out
}

const plainWidth = 100

// newTerminal uses colours only where a person sees them and NO_COLOR is unset.
func newTerminal(in, out, err *os.File) *terminal {
	t := &terminal{in: in, out: out, err: err, width: plainWidth}
	t.asks = term.IsTerminal(int(in.Fd()))
	t.live = term.IsTerminal(int(err.Fd()))
	if term.IsTerminal(int(out.Fd())) {
		t.color = os.Getenv("NO_COLOR") == ""
		if columns, _, err := term.GetSize(int(out.Fd())); err == nil && columns > 0 {
			t.width = columns
		}
	}
	return t
}

type tone string

const (
	plain  tone = ""
	good   tone = "32"
	bad    tone = "31"
	notice tone = "33"
	faint  tone = "2"
)

func (t *terminal) paint(as tone, text string) string {
	if !t.color || as == plain || text == "" {
		return text
	}
	return "\x1b[" + string(as) + "m" + text + "\x1b[0m"
}

// confirm asks for word, and reports whether exactly that was typed.
func (t *terminal) confirm(question, word string) (bool, error) {
	if _, err := fmt.Fprintf(t.err, "%s\nType %s to go on: ", question, word); err != nil {
		return false, err
	}
	answer, err := bufio.NewReader(t.in).ReadString('\n')
	if err != nil && err != io.EOF {
		return false, fmt.Errorf("reading the answer: %w", err)
	}
	return strings.TrimSpace(answer) == word, nil
}

// printable replaces what could move the cursor or change colours: names and
// messages come from whoever may write objects.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || (r >= 0x7f && r < 0xa0) {
			return ' '
		}
		return r
	}, text)
}

// printableLines is printable for a text of several lines.
func printableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}

// wrapped breaks text between words into lines of at most width runes; a
// longer word has a line of its own.
func wrapped(text string, width int) []string {
	var lines []string
	line, length := "", 0
	for _, word := range strings.Fields(text) {
		size := len([]rune(word))
		if length > 0 && length+1+size > width {
			lines = append(lines, line)
			line, length = "", 0
		}
		if length > 0 {
			line, length = line+" ", length+1
		}
		line, length = line+word, length+size
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
