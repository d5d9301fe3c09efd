package main

import (
	"fmt"
	"strings"
)

// printPlans writes the plans as text that can be read aloud to a reviewer.
func (d *desk) printPlans(plans []plan) error {
	var out strings.Builder
	for i, p := range plans {
		if i > 0 {
			out.WriteString("\n")
		}
		d.writePlan(&out, p)
	}
	_, err := fmt.Fprint(d.out, out.String())
	return err
}

func (d *desk) writePlan(out *strings.Builder, p plan) {
	name := p.Name
	if p.Namespace != "" {
		name = p.Namespace + "/" + p.Name
	}
	if len(p.Stops)+len(p.Objects)+len(p.SQL)+len(p.Restarts) == 0 {
		fmt.Fprintf(out, "%s %s: nothing to do\n", p.Kind, name)
		return
	}
	fmt.Fprintf(out, "%s %s\n", p.Kind, name)
	for _, text := range p.Stops {
		fmt.Fprintf(out, "  %s    %s\n", d.paint(bad, "stops"), printable(text))
	}
	for _, text := range p.Objects {
		fmt.Fprintf(out, "  %s   %s\n", d.paint(good, "writes"), printable(text))
	}
	for _, text := range p.Restarts {
		fmt.Fprintf(out, "  %s %s\n", d.paint(notice, "restarts"), printable(text))
	}
	for i, s := range p.SQL {
		if i == 0 || s.Database != p.SQL[i-1].Database {
			fmt.Fprintf(out, "  SQL in %s\n", where(s.Database))
		}
		d.writeStatement(out, s)
	}
}

func where(database string) string {
	if database == "" {
		return "the maintenance database"
	}
	return "database " + printable(database)
}

func (d *desk) writeStatement(out *strings.Builder, s planned) {
	if s.Note != "" {
		fmt.Fprintf(out, "    %s\n", d.paint(faint, "-- "+printable(s.Note)))
	}
	text := strings.TrimSuffix(strings.TrimSpace(s.SQL), ";") + ";"
	for line := range strings.SplitSeq(text, "\n") {
		fmt.Fprintf(out, "    %s\n", printable(line))
	}
}
