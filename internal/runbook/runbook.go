// Package runbook reads the pages of docs/runbooks, for the test that holds them
// to what exists, and for the command that tries them.
package runbook

import (
	"fmt"
	"os"
	"regexp"
	"slices"
)

// Sections are those of each runbook, in their order.
var Sections = []string{"Meaning", "Impact", "Diagnosis", "Mitigation"}

// A Block is a fenced block of a page: commands where Language is sh, one query
// on each line where it is promql.
type Block struct{ Language, Text string }

// A Runbook is the blocks of each section, by its name.
type Runbook map[string][]Block

var (
	section = regexp.MustCompile(`(?m)^## (.*)$`)
	fenced  = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")
)

// Read reads a page. It is an error where its sections are not those of Sections.
func Read(file string) (Runbook, error) {
	text, err := os.ReadFile(file) //nolint:gosec // a page of this tree
	if err != nil {
		return nil, err
	}
	r := Runbook{}
	var names []string
	found := section.FindAllSubmatchIndex(text, -1)
	for i, at := range found {
		name, end := string(text[at[2]:at[3]]), len(text)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		names = append(names, name)
		for _, block := range fenced.FindAllSubmatch(text[at[1]:end], -1) {
			r[name] = append(r[name], Block{Language: string(block[1]), Text: string(block[2])})
		}
	}
	if !slices.Equal(names, Sections) {
		return nil, fmt.Errorf("%s has the sections %q, not %q", file, names, Sections)
	}
	return r, nil
}
