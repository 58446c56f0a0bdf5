package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// printFailures prints all that the failed tests wrote, since nobody can ask
// them again as they were.
func printFailures(w io.Writer, o outcome) {
	if o.err != nil {
		fmt.Fprintf(w, "%v\n", o.err)
	}
	for _, t := range o.result.failed {
		fmt.Fprintf(w, "FAILED %s\n%s", t.name, t.said)
	}
}

// printTable prints a line for each version and step, and below it what failed
// and what was skipped: once for each reason, with the versions.
func printTable(w io.Writer, outcomes []outcome) error {
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PostgreSQL\tran\tpassed\tfailed\tskipped\ttook")
	for _, o := range outcomes {
		failed := fmt.Sprint(len(o.result.failed))
		if o.err != nil {
			failed = "did not end"
		}
		version, _, _ := strings.Cut(o.version, "-")
		fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%d\t%s\n", version, o.step, o.result.passed, failed, len(o.result.skipped), o.took.Round(time.Second))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	printTests(w, "failed", outcomes, func(o outcome) []test {
		failed := slices.Clone(o.result.failed)
		for i := range failed {
			failed[i].said = "" // it was printed when it failed
		}
		return failed
	})
	printTests(w, "skipped", outcomes, func(o outcome) []test { return o.result.skipped })
	return nil
}

func printTests(w io.Writer, what string, outcomes []outcome, which func(outcome) []test) {
	on := map[test][]string{}
	for _, o := range outcomes {
		major, _, _ := strings.Cut(o.version, ".")
		for _, t := range which(o) {
			on[t] = append(on[t], major)
		}
	}
	if len(on) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s:\n", what)
	tests := make([]test, 0, len(on))
	for t := range on {
		tests = append(tests, t)
	}
	slices.SortFunc(tests, func(a, b test) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.said, b.said)) })
	for _, t := range tests {
		line := fmt.Sprintf("  %s on %s", t.name, strings.Join(on[t], ", "))
		if t.said != "" {
			line += ": " + t.said
		}
		fmt.Fprintln(w, line)
	}
}
