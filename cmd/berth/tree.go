package main

import (
	"fmt"
	"strings"
)

// node is one line of a tree, with a paragraph and lines below it.
type node struct {
	kind     string // a column among its siblings; empty leaves text alone
	text     string
	detail   string // wrapped to the width left
	children []node
}

// printTree writes root without a branch and all below it with one.
func (t *terminal) printTree(root node) error {
	var out strings.Builder
	out.WriteString(root.line(0) + "\n")
	t.grow(&out, root, "")
	_, err := fmt.Fprint(t.out, out.String())
	return err
}

const narrowest = 20 // columns for a paragraph, however deep

func (t *terminal) grow(out *strings.Builder, parent node, indent string) {
	column := 0
	for _, n := range parent.children {
		column = max(column, len([]rune(n.kind)))
	}
	for i, n := range parent.children {
		branch, below := "├─ ", "│  "
		if i == len(parent.children)-1 {
			branch, below = "└─ ", "   "
		}
		out.WriteString(t.paint(faint, indent+branch) + n.line(column) + "\n")
		bar := indent + below
		if len(n.children) > 0 {
			bar += "│ "
		} else {
			bar += "  "
		}
		for _, line := range wrapped(n.detail, max(narrowest, t.width-len([]rune(bar)))) {
			out.WriteString(t.paint(faint, bar) + line + "\n")
		}
		t.grow(out, n, indent+below)
	}
}

func (n node) line(column int) string {
	if n.kind == "" {
		return n.text
	}
	return n.kind + strings.Repeat(" ", max(0, column-len([]rune(n.kind)))) + " " + n.text
}
