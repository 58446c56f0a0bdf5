package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/runbook"
	"tokenalert/worker"
)

const runbooks = "../../docs/runbooks"

// There is a runbook for each alert of the rules, in the index too, and no other.
func TestEachAlertHasItsRunbook(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile("../../deploy/components/monitoring/rules.yaml")
	require.NoError(t, err)
	var alerts, pages []string
	for _, found := range regexp.MustCompile(`(?m)^\s*- alert: (\w+)$`).FindAllStringSubmatch(string(rules), -1) {
		alerts = append(alerts, found[1])
		assert.Contains(t, string(rules), "runbook_url: docs/runbooks/"+found[1]+".md")
	}
	slices.Sort(alerts)
	alerts = slices.Compact(alerts)
	require.NotEmpty(t, alerts)
	index, err := os.ReadFile(filepath.Join(runbooks, "README.md"))
	require.NoError(t, err)
	for _, page := range runbookPages(t) {
		name := strings.TrimSuffix(filepath.Base(page), ".md")
		pages = append(pages, name)
		assert.Contains(t, string(index), "| ["+name+"]("+name+".md) |")
	}
	assert.Equal(t, alerts, pages)
}

// What a runbook names exists: sections, subcommands and their flags, events and
// their fields, metrics, settings, pages.
func TestRunbooksNameWhatExists(t *testing.T) {
	t.Parallel()
	events := map[string][]string{}
	kinds := map[string]bool{} // of events, as user in user.set_aside
	for _, e := range worker.Events {
		events[string(e.Name)] = append([]string{"ts", "level", "msg", "event", "worker"}, e.Fields...)
		kind, _, _ := strings.Cut(string(e.Name), ".")
		kinds[kind] = true
	}
	metrics := metricsOfThePage(t)
	for _, file := range append(runbookPages(t), filepath.Join(runbooks, "README.md")) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		name := filepath.Base(file)
		if name != "README.md" {
			book, err := runbook.Read(file)
			require.NoError(t, err)
			for _, section := range []string{"Diagnosis", "Mitigation"} {
				assert.NotEmpty(t, book[section], "%s: %s has no commands", name, section)
			}
			for _, b := range slices.Concat(book["Diagnosis"], book["Mitigation"]) {
				if b.Language != "promql" {
					continue
				}
				for _, metric := range regexp.MustCompile(`\btokenalert_\w+`).FindAllString(b.Text, -1) {
					assert.Contains(t, metrics, metric, name)
				}
			}
		}
		for _, command := range regexp.MustCompile("(?m)^(?:TOKENALERT_LISTEN_URL= )?(?:DATABASE_URL=\\S+ )?tokenalert (.*)$|-- /tokenalert (.*)$|`tokenalert ([^`%]+)`").FindAllStringSubmatch(string(text), -1) {
			assertIsACommand(t, command[1]+command[2]+command[3], name)
		}
		for _, line := range regexp.MustCompile(`(?m)^.*\.event == .*$`).FindAllString(string(text), -1) {
			var fields []string
			for _, event := range regexp.MustCompile(`\.event == "([^"]*)"`).FindAllStringSubmatch(line, -1) {
				require.Contains(t, events, event[1], name)
				fields = append(fields, events[event[1]]...)
			}
			_, shown, found := strings.Cut(line, ") | [")
			require.True(t, found, line)
			for _, field := range regexp.MustCompile(`\.(\w+)`).FindAllStringSubmatch(shown, -1) {
				assert.Contains(t, fields, field[1], "%s: no such field in\n%s", name, line)
			}
		}
		for _, code := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(string(text), -1) {
			kind, _, _ := strings.Cut(code[1], ".")
			switch {
			case regexp.MustCompile(`^[a-z]+\.[a-z_]+$`).MatchString(code[1]) && kinds[kind]:
				assert.Contains(t, events, code[1], name)
			case regexp.MustCompile(`^tokenalert_\w+$`).MatchString(code[1]):
				assert.Contains(t, metrics, code[1], name)
			case regexp.MustCompile(`^TOKENALERT_\w+$`).MatchString(code[1]):
				assert.True(t, slices.ContainsFunc((settings{}).all(), func(s worker.Setting) bool { return s.Name == code[1] }), "%s: no setting is named %s", name, code[1])
			}
		}
		for _, link := range regexp.MustCompile(`\]\(([^):#]+)(?:#[\w-]+)?\)`).FindAllStringSubmatch(string(text), -1) {
			_, err := os.Stat(filepath.Join(runbooks, link[1]))
			assert.NoError(t, err, name)
		}
	}
}

func runbookPages(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob(filepath.Join(runbooks, "Tokenalert*.md"))
	require.NoError(t, err)
	return pages
}

// metricsOfThePage are those of docs/metrics.md, which another test compares with
// /metrics, and the series of the histograms among them.
func metricsOfThePage(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	var names []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(tokenalert_\\w+)` \\| (\\w+) \\|").FindAllStringSubmatch(string(text), -1) {
		names = append(names, row[1])
		if row[2] == "histogram" {
			names = append(names, row[1]+"_bucket", row[1]+"_sum", row[1]+"_count")
		}
	}
	require.NotEmpty(t, names)
	return names
}

func assertIsACommand(t *testing.T, typed, page string) {
	t.Helper()
	typed, _, _ = strings.Cut(typed, " | ")
	command, args, err := newRoot().Find(strings.Fields(strings.ReplaceAll(typed, `"$USER_ID"`, uuid.Nil.String())))
	if err == nil {
		err = command.ParseFlags(args)
	}
	if err == nil {
		err = command.ValidateArgs(command.Flags().Args())
	}
	require.NoError(t, err, "%s: tokenalert %s", page, typed)
	assert.True(t, command.HasParent(), "%s: tokenalert %s", page, typed)
}
