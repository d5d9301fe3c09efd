package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"
)

// row is one line of the table. Median, minimum and maximum are of figures.
type row struct {
	what              string
	berth, raw, ratio string // what was measured, and the same without berth
	figures           []float64
	must              string
	reached           bool
}

var header = []string{"what", "berth", "raw", "ratio", "runs", "median", "min", "max", "must reach", "reached"}

func (r row) cells() []string {
	reached := "no"
	if r.reached {
		reached = "yes"
	}
	return []string{r.what, r.berth, or(r.raw), or(r.ratio), strconv.Itoa(len(r.figures)),
		number(median(r.figures)), number(least(r.figures)), number(most(r.figures)), r.must, reached}
}

func or(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// number keeps three figures and no more digits than that takes.
func number(f float64) string {
	switch {
	case f != f:
		return "-"
	case f >= 100 || f <= -100:
		return strconv.FormatFloat(f, 'f', 0, 64)
	}
	return strconv.FormatFloat(f, 'g', 3, 64)
}

// render writes rows as a Markdown table that also reads well on a terminal.
func render(rows []row) string {
	lines := [][]string{header}
	for _, r := range rows {
		lines = append(lines, r.cells())
	}
	widths := make([]int, len(header))
	for _, cells := range lines {
		for i, c := range cells {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var out strings.Builder
	for n, cells := range lines {
		for i, c := range cells {
			fmt.Fprintf(&out, "| %s%s ", c, strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)))
		}
		out.WriteString("|\n")
		if n == 0 {
			for _, w := range widths {
				out.WriteString("|" + strings.Repeat("-", w+2))
			}
			out.WriteString("|\n")
		}
	}
	return out.String()
}

// The table of a document stands between these lines.
const (
	tableBegins = "<!-- table begins: written by make bench -->\n"
	tableEnds   = "<!-- table ends -->\n"
)

// rewrite replaces what stands between the markers of file.
func rewrite(file, table string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	before, rest, begins := bytes.Cut(text, []byte(tableBegins))
	_, after, ends := bytes.Cut(rest, []byte(tableEnds))
	if !begins || !ends {
		return fmt.Errorf("finding the table in %s: it stands between the lines %q and %q", file, strings.TrimSpace(tableBegins), strings.TrimSpace(tableEnds))
	}
	whole := string(before) + tableBegins + "\n" + table + "\n" + tableEnds + string(after)
	if err := os.WriteFile(file, []byte(whole), 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}
