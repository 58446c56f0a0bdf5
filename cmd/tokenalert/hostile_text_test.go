package main

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/store"
	"tokenalert/worker"
)

// hostileTexts are what somebody may call themselves, or a table, to have a
// terminal do something: clear it, rename its window, put text on the clipboard,
// answer in the operator's name, turn the line around, hide the rest of it.
var hostileTexts = []string{
	"Ana", "", "\x1b[2J\x1b[H", "\x1b]0;pwned\a", "\x1b]52;c;cm0gLXJmIC8K\x1b\\", "\x1b[6n", "\x1bP+q544e\x1b\\", "\x9b31m", "\u009b31m", "\u009d0;x\u009c",
	"a\rb", "a\nb", "a\bb", "a\x00b", "\x7f", "\u202eevil\u202c", "\u2066a\u2069", "\ufeff", "\u200b\u200d", "\U000e0041", "مرحبا", "שלום", "👩‍👩‍👧 🇨🇱", "e\u0301\u0301\u0301",
	"{{.}}%s%!d(MISSING)${HOME}", "\xff\xfe\xc0\x80", "\u2028\u2029", strings.Repeat("長", 300), "\x1b[38;5;\n196m",
}

// harmlessOn fails where text can do anything to a terminal but fill its lines.
func harmlessOn(t *testing.T, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Fatalf("broken bytes in %q", text)
	}
	for _, r := range text {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
			t.Fatalf("%U in %q", r, text)
		}
	}
}

// Whatever is in the database, every page stays text: as many lines as it has
// with a plain name, and nothing in them that a terminal acts upon.
func FuzzPagesStayText(f *testing.F) {
	for _, text := range hostileTexts {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		require.Equal(t, plain(text), plain(plain(text)))
		for _, width := range []int{1, 2, 12, 24} {
			if got := ansi.StringWidth(pad(text, width)); got != width {
				t.Fatalf("%d cells, not %d: %q", got, width, pad(text, width))
			}
		}
		for page, draw := range map[string]func(string) string{"explain": explainPage, "status": statusPage, "doctor": doctorPage} {
			drawn := draw(text)
			harmlessOn(t, drawn)
			if got, want := strings.Count(drawn, "\n"), strings.Count(draw("Ana"), "\n"); got != want {
				t.Fatalf("%s has %d lines, not %d:\n%s", page, got, want, drawn)
			}
		}
		harmlessOn(t, sayError(errors.New("explain: "+text)))
	})
}

func explainPage(text string) string {
	var b strings.Builder
	now := time.Date(2026, time.May, 15, 0, 0, 0, 0, time.UTC)
	limit := int64(1000)
	_ = explanation{
		Explanation: worker.Explanation{Answer: text, Notes: []string{text}},
		Account: store.Account{
			UserID: uuid.Nil, FullName: text, Now: now, TokenLimit: &limit, LimitIn: text,
			LastTick: &store.TickRow{Worker: text}, Leader: &store.Leader{Worker: text},
			Alerts: []store.AccountAlert{{Reason: text}},
			Newest: []store.AccountRow{{XactID: &text}},
		},
	}.print(&b)
	return b.String()
}

func statusPage(text string) string {
	now := time.Date(2026, time.May, 15, 0, 0, 0, 0, time.UTC)
	return strings.Join(newView(&strings.Builder{}).status(store.Status{
		Now: now, Database: text, Leader: &store.Leader{Worker: text, Since: &now}, LastTick: &store.TickRow{Worker: text},
		Settings: &store.Settings{Thresholds: []int32{80, 90, 100}}, Limited: 1,
		Users:  []store.Standing{{FullName: text, TokensUsed: 900, TokenLimit: 1000, PeriodEnd: now}},
		Alerts: []store.AlertCount{{Threshold: 80, Reason: "because of " + text, Count: 1}},
	}, 100), "\n")
}

func doctorPage(text string) string {
	var b strings.Builder
	_ = printDiagnosis(&b, store.Diagnosis{Database: "db " + text, Role: text, Checks: []store.Examined{
		{Check: "well", Well: text},
		{Check: "skipped", Skipped: text},
		{Check: "found", Findings: []store.Finding{{
			Severity: store.Warning, Says: "table " + plain(text), Remedy: "look at " + text, Commands: []string{"DROP TABLE " + text},
		}}},
	}})
	return b.String()
}

// Names of tables, roles and databases may hold control characters as well, and
// so may what the server says of them.
func TestNamesOfTheDatabaseDoNothingToATerminal(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	require.NoError(t, printDiagnosis(&b, store.Diagnosis{Database: "cms\x1b[2J", Role: "r\x1b]0;x\a", Checks: []store.Examined{
		{Check: "schema", Findings: []store.Finding{{
			Severity: store.Broken, Says: "table \x1b[8mhidden\nand more", Remedy: "as \x9bowner", Commands: []string{"DROP TABLE \"\x1b[H\""},
		}}},
	}}))
	harmlessOn(t, b.String())
	assert.Contains(t, b.String(), "database cms[2J as role r]0;x\n")
	assert.Regexp(t, `table \[8mhidden\n +and more\n`, b.String(), "a finding of two lines has two")
	assert.Equal(t, "tokenalert: a: [2J\nb", sayError(errors.Join(errors.New("a: \x1b[2J"), errors.New("b\r"))))
}

// What explain takes for a user, it can ask the database for; what it does not,
// it shows quoted.
func FuzzExplainArgument(f *testing.F) {
	for _, text := range append(hostileTexts, "3f0e8d52-6c5e-4b0b-9c56-0c2f0f6d1a77", "{3f0e8d52-6c5e-4b0b-9c56-0c2f0f6d1a77}", " ana@example.org ", "@", "urn:uuid:") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		err := oneUser(&cobra.Command{}, []string{text})
		if err == nil {
			_, parseErr := uuid.Parse(strings.TrimSpace(text))
			require.True(t, parseErr == nil || strings.Contains(text, "@"))
			return
		}
		harmlessOn(t, err.Error())
		require.NotContains(t, err.Error(), "\n")
	})
}

// A connection string that went into the wrong variable is in no error and in
// nothing that is printed, whatever stands around it.
func FuzzNoSettingShowsAConnectionString(f *testing.F) {
	for _, text := range []string{"", " ", "x", "\n", "80,", "5s", "é", "\x1b[2J", strings.Repeat("a", 100)} {
		f.Add(text, text)
	}
	f.Add("America/Santiago", "")
	f.Fuzz(func(t *testing.T, before, after string) {
		if strings.ContainsRune(before+after, 0) {
			t.Skip("no environment variable holds a NUL")
		}
		const secret = "hunter2-hunter2"
		for _, given := range []string{
			before + "postgres://ann:" + secret + "@h/db" + after,
			before + "host=h password=" + secret + after,
			before + "host=h PASSWORD = '" + secret + "'" + after,
			before + "ann:" + secret + "@h" + after,
		} {
			for _, s := range worker.DefaultConfig().Settings() {
				loaded, err := loadSettings([]string{s.Name + "=" + given})
				if err == nil && (s.Name == "TOKENALERT_WORKER_NAME" || s.Name == "TOKENALERT_LINK_URL") {
					continue // what others are meant to see
				}
				out := printed(t, loaded)
				if err != nil {
					out = err.Error()
				}
				if strings.Contains(out, secret) {
					t.Fatalf("%s=%q shows\n%s", s.Name, given, out)
				}
			}
		}
	})
}
