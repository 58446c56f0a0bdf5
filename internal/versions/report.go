package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// failures is all that the failed tests wrote, since nobody can ask them again
// as they were.
func failures(o outcome) string {
	var b strings.Builder
	if o.err != nil {
		fmt.Fprintf(&b, "%v\n", o.err)
	}
	for _, t := range o.result.failed {
		fmt.Fprintf(&b, "FAILED %s\n%s", t.name, t.said)
	}
	for _, t := range o.result.unsteady {
		fmt.Fprintf(&b, "FAILED, and passed alone: %s\n%s", t.name, t.said)
	}
	return b.String()
}

// report is a table with a line for each version and step, and below it what
// failed and what was skipped: once for each reason, with the versions.
func report(outcomes []outcome) string {
	var b strings.Builder
	const line = "%-10s  %-14s  %6v  %11v  %7v  %v\n"
	fmt.Fprintf(&b, "\n"+line, "PostgreSQL", "ran", "passed", "failed", "skipped", "took")
	for _, o := range outcomes {
		var failed any = len(o.result.failed)
		if o.err != nil {
			failed = "did not end"
		}
		version, _, _ := strings.Cut(o.version, "-")
		fmt.Fprintf(&b, line, version, o.step, o.result.passed, failed, len(o.result.skipped), o.took.Round(time.Second))
	}
	names := func(failed []test) []test {
		failed = slices.Clone(failed)
		for i := range failed {
			failed[i].said = "" // it was printed when it failed
		}
		return failed
	}
	b.WriteString(listed("failed", outcomes, func(o outcome) []test { return names(o.result.failed) }))
	b.WriteString(listed("failed, and passed alone", outcomes, func(o outcome) []test { return names(o.result.unsteady) }))
	b.WriteString(listed("skipped", outcomes, func(o outcome) []test { return o.result.skipped }))
	return b.String()
}

func listed(what string, outcomes []outcome, which func(outcome) []test) string {
	on := map[test][]string{}
	for _, o := range outcomes {
		major, _, _ := strings.Cut(o.version, ".")
		for _, t := range which(o) {
			on[t] = append(on[t], major)
		}
	}
	if len(on) == 0 {
		return ""
	}
	tests := make([]test, 0, len(on))
	for t := range on {
		tests = append(tests, t)
	}
	slices.SortFunc(tests, func(a, b test) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.said, b.said)) })
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s:\n", what)
	for _, t := range tests {
		fmt.Fprintf(&b, "  %s on %s", t.name, strings.Join(on[t], ", "))
		if t.said != "" {
			b.WriteString(": " + t.said)
		}
		b.WriteString("\n")
	}
	return b.String()
}
