package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// placeOf is where in the grammar a command is: " get", or "" for the root. The scripts walk the words
// before the cursor from place to place.
func placeOf(n *kong.Node) string {
	if n.Parent == nil {
		return ""
	}
	return placeOf(n.Parent) + " " + n.Name
}

// places are n and all visible commands below it.
func places(n *kong.Node) []*kong.Node {
	all := []*kong.Node{n}
	for _, child := range n.Children {
		if !child.Hidden {
			all = append(all, places(child)...)
		}
	}
	return all
}

func commandsOf(n *kong.Node) []*kong.Node {
	return slices.DeleteFunc(slices.Clone(n.Children), func(c *kong.Node) bool { return c.Hidden })
}

func flagsOf(n *kong.Node) []*kong.Flag { return slices.Concat(n.AllFlags(true)...) }

// positional is what the first argument of a command may be: fixed words, or
// names to ask for.
func positional(n *kong.Node) (words []string, names bool) {
	if len(n.Positional) == 0 {
		return nil, false
	}
	p := n.Positional[0]
	return enumOf(p), p.Tag.Get("complete") == "claims"
}

// enumOf are the values a flag or argument accepts, in the order of the grammar.
func enumOf(v *kong.Value) []string {
	if v.Enum == "" {
		return nil
	}
	return v.EnumSlice()
}

func takesFile(f *kong.Flag) bool { return f.Tag.Type == "path" || f.Name == "file" }

// spellings are the ways to write a flag.
func spellings(f *kong.Flag) []string {
	all := []string{"--" + f.Name}
	if f.Short != 0 {
		all = append(all, "-"+string(f.Short))
	}
	if f.Negated || f.Tag.Negatable != "" {
		all = append(all, "--no-"+f.Name)
	}
	return all
}

// bashScript needs only bash itself, 3.2 or later.
func bashScript(root *kong.Node) string {
	var b strings.Builder
	b.WriteString("_berth() {\n  local cur=\"${COMP_WORDS[COMP_CWORD]}\" prev=\"${COMP_WORDS[COMP_CWORD-1]}\" place=\"\" names=claims i\n" +
		"  COMPREPLY=()\n  for ((i = 1; i < COMP_CWORD; i++)); do\n    case \"$place ${COMP_WORDS[i]}\" in\n")
	for _, n := range places(root)[1:] {
		fmt.Fprintf(&b, "      %s) place=%s ;;\n", quoted(placeOf(n)), quoted(placeOf(n)))
	}
	b.WriteString("    esac\n    [[ ${COMP_WORDS[i]} == --role ]] && names=roles\n  done\n  case \"$place|$prev\" in\n")
	for _, n := range places(root) {
		for _, f := range flagsOf(n) {
			if answer := bashValue(f); answer != "" {
				fmt.Fprintf(&b, "    %s) %s; return ;;\n", patterns(n, f), answer)
			}
		}
	}
	b.WriteString("  esac\n  case \"$place\" in\n")
	for _, n := range places(root) {
		words, names := positional(n)
		for _, c := range commandsOf(n) {
			words = append(words, c.Name)
		}
		var flags []string
		for _, f := range flagsOf(n) {
			flags = append(flags, spellings(f)...)
		}
		ask := ""
		if names {
			ask = " $(berth complete \"$names\" 2>/dev/null)"
		}
		fmt.Fprintf(&b, "    %s) if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W %s -- \"$cur\")); else COMPREPLY=($(compgen -W \"%s%s\" -- \"$cur\")); fi ;;\n",
			quoted(placeOf(n)), quoted(strings.Join(flags, " ")), strings.Join(words, " "), ask)
	}
	b.WriteString("  esac\n}\ncomplete -F _berth berth\n")
	return b.String()
}

// bashValue completes the value of a flag; empty for a flag without one.
func bashValue(f *kong.Flag) string {
	switch {
	case f.IsBool() || f.IsCounter():
		return ""
	case enumOf(f.Value) != nil:
		return "COMPREPLY=($(compgen -W " + quoted(strings.Join(enumOf(f.Value), " ")) + " -- \"$cur\"))"
	case takesFile(f):
		return "COMPREPLY=($(compgen -f -- \"$cur\"))"
	}
	return ":"
}

func patterns(n *kong.Node, f *kong.Flag) string {
	var all []string
	for _, s := range spellings(f) {
		all = append(all, quoted(placeOf(n)+"|"+s))
	}
	return strings.Join(all, "|")
}

// zshScript runs bash's completion, which zsh brings a reader for.
func zshScript(root *kong.Node) string {
	return "(( $+functions[compdef] )) || { autoload -U +X compinit && compinit; }\nautoload -U +X bashcompinit && bashcompinit\n" + bashScript(root)
}

// fishScript gives fish what it needs to describe each word.
func fishScript(root *kong.Node) string {
	var b strings.Builder
	b.WriteString("function __berth_place\n  set -l place ''\n  for word in (commandline -opc)[2..-1]\n    switch \"$place $word\"\n")
	for _, n := range places(root)[1:] {
		fmt.Fprintf(&b, "      case %s\n        set place %s\n", quoted(placeOf(n)), quoted(placeOf(n)))
	}
	b.WriteString("    end\n  end\n  test \"$place\" = \"$argv[1]\"\nend\n" +
		"function __berth_names\n  if contains -- --role (commandline -opc)\n    berth complete roles 2>/dev/null\n  else\n    berth complete claims 2>/dev/null\n  end\nend\ncomplete -c berth -f\n")
	for _, n := range places(root) {
		here := "complete -c berth -n " + quoted(`__berth_place "`+placeOf(n)+`"`)
		for _, c := range commandsOf(n) {
			fmt.Fprintf(&b, "%s -a %s -d %s\n", here, c.Name, quoted(firstLine(c.Help)))
		}
		words, names := positional(n)
		if names {
			words = append(words, "(__berth_names)")
		}
		if len(words) > 0 {
			fmt.Fprintf(&b, "%s -a %s\n", here, quoted(strings.Join(words, " ")))
		}
		for _, f := range flagsOf(n) {
			fmt.Fprintf(&b, "%s %s -d %s\n", here, fishFlag(f), quoted(firstLine(f.Help)))
		}
	}
	return b.String()
}

func fishFlag(f *kong.Flag) string {
	text := "-l " + f.Name
	if f.Short != 0 {
		text += " -s " + string(f.Short)
	}
	switch {
	case f.IsBool() || f.IsCounter():
		return text
	case enumOf(f.Value) != nil:
		return text + " -x -a " + quoted(strings.Join(enumOf(f.Value), " "))
	case takesFile(f):
		return text + " -r -F"
	}
	return text + " -x"
}

func firstLine(help string) string {
	line, _, _ := strings.Cut(help, "\n")
	return line
}

// quoted is text as one word of bash and of fish.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
