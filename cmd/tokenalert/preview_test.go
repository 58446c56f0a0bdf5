package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/worker"
)

const messagesPage = "../../docs/messages.md"

// previewed runs preview for programs.
func previewed(t *testing.T, environment []string, args ...string) []preview {
	t.Helper()
	status, stdout, stderr := typed(t, environment, append([]string{"preview", "--output", "json"}, args...)...)
	require.Equal(t, 0, status, stderr)
	var previews []preview
	require.NoError(t, json.Unmarshal([]byte(stdout), &previews))
	return previews
}

func TestPreviewShows(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args        string
		environment []string
		want        string // language, threshold, kind and used of each
	}{
		{"", nil, "es 80 warning 80.000, es 90 near 90.000, es 100 reached 100.000, en 80 warning 80,000, en 90 near 90,000, en 100 reached 100,000, pt 80 warning 80.000, pt 90 near 90.000, pt 100 reached 100.000"},
		{"--language EN_us", []string{"TOKENALERT_THRESHOLDS=150,50"}, "en 50 warning 50,000, en 150 exceeded 150,000"},
		{"--language pt --threshold 33 --limit 7", nil, "pt 33 warning 3"},
		{"--language en --threshold 100 --limit 1", nil, "en 100 reached 1"},
		{"--language en --used 912 --limit 1000", nil, "en 90 near 912"},
		{"--language en --used 1000 --limit 1000 --threshold 80", nil, "en 80 reached 1,000"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range previewed(t, tt.environment, strings.Fields(tt.args)...) {
				got = append(got, strings.Join([]string{string(p.Language), p.Placeholders["threshold"], string(p.Kind), p.Placeholders["tokens_used"]}, " "))
				assert.NotEmpty(t, p.Title)
				assert.Contains(t, p.Message, "Ana Núñez")
				assert.Empty(t, p.Files)
			}
			assert.Equal(t, tt.want, strings.Join(got, ", "))
		})
	}
}

// What admins are told is what the texts of those kinds say, by each channel that
// carries it.
func TestPreviewOfWhatAdminsAreTold(t *testing.T) {
	t.Parallel()
	const (
		ofUser   = "Hello Ana Núñez, Rui Araújo has used 90,000 AI tokens this period, 90.0% of a limit of 100,000."
		ofBudget = "Hello Ana Núñez, the members of your organization have used 90,000 AI tokens this period, 90.0% of a budget of 100,000."
	)
	for args, want := range map[string]struct{ title, message string }{
		"--kind admin":  {"👤 Rui Araújo: 90% of AI tokens used", ofUser},
		"--kind budget": {"🏢 Your organization has used 90% of its AI tokens", ofBudget},
	} {
		args := strings.Fields(args)
		typed := append(args, "--language", "en", "--threshold", "90")
		got := previewed(t, nil, typed...)
		require.Len(t, got, 1)
		assert.Equal(t, args[1], string(got[0].Kind))
		assert.Equal(t, want.title, got[0].Title)
		assert.Contains(t, got[0].Message, want.message)
		mail := previewed(t, nil, append(typed, "--channel", "email")...)[0].Email
		assert.Equal(t, want.title, mail.Subject)
		assert.Contains(t, mail.Text, want.message)
		assert.Contains(t, mail.HTML, want.message)
		assert.Len(t, previewed(t, nil, args...), 9, "each language and threshold")
	}

	status, stdout, stderr := typed(t, nil, "preview", "--kind", "budget", "--channel", "webhook", "--language", "pt", "--threshold", "80", "-o", "json")
	require.Equal(t, 0, status, stderr)
	var posted []struct {
		Webhook struct {
			Type string         `json:"type"`
			Data map[string]any `json:"data"`
		} `json:"webhook"`
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &posted))
	require.Len(t, posted, 1)
	assert.Equal(t, "token_budget.alert", posted[0].Webhook.Type)
	assert.NotContains(t, posted[0].Webhook.Data, "user_id")
	assert.Equal(t, "🏢 Sua organização usou 80% dos seus tokens de IA", posted[0].Webhook.Data["title"])
	assert.NotContains(t, posted[0].Webhook.Data["message"], "Ana")

	nameless := previewed(t, nil, "--kind", "admin", "--language", "en", "--threshold", "90", "--about=", "--name=")
	assert.Equal(t, "👤 A user: 90% of AI tokens used", nameless[0].Title)

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "en.budget.title"), []byte("{{percent}} of all"), 0o600))
	own := previewed(t, []string{"TOKENALERT_TEMPLATES=" + dir}, "--kind", "budget", "--language", "en", "--threshold", "80")
	assert.Equal(t, "80.0% of all", own[0].Title)
	assert.Equal(t, []string{"en.budget.title"}, own[0].Files)
}

func TestPreviewIsOfTheMiddleOfTheMonth(t *testing.T) {
	t.Parallel()
	santiago, err := time.LoadLocation("America/Santiago")
	require.NoError(t, err)
	s := sample{languages: []worker.Language{worker.English}, thresholds: []int{80}, used: -1, limit: 1000}
	for _, today := range []time.Time{
		time.Date(2027, time.February, 1, 0, 0, 0, 0, santiago), time.Date(2027, time.February, 28, 23, 59, 0, 0, santiago),
	} {
		got := s.previews(worker.BuiltInWords(worker.Spanish), today)
		require.Len(t, got, 1)
		assert.Equal(t, "Hello, you have used 800 AI tokens this period, 80.0% of your limit of 1,000. "+
			"At this pace you will reach your limit on February 19, 2027. Your limit resets on March 1, 2027.", got[0].Message)
	}
}

func TestPreviewText(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(filepath.Dir(messagesPage), "messages")
	status, stdout, stderr := typed(t, []string{"TOKENALERT_TEMPLATES=" + dir}, "preview", "--language", "es", "--name", "\x1b[2J")
	require.Equal(t, 0, status, stderr)
	assert.Regexp(t, `^es, 80 %, warning \(built in\)
📊 80% de tokens de IA utilizados
Hola, \[2J: .*

es, 90 %, near \(es.near.title, es.near.message\)
⚡ Casi sin tokens: 90,0%
\[2J, te acercas a tu límite de 100.000 tokens. .*

es, 100 %, reached \(built in\)
.*
.*
$`, stdout)
}

// Whatever run would refuse to start with, preview refuses with the same words.
func TestPreviewRefusesAsRunDoes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "es.near.title"), []byte("{{percnt}}"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "es.near.titel"), []byte("x"), 0o600))
	for _, environment := range [][]string{
		{"TOKENALERT_TEMPLATES=" + dir, "TOKENALERT_THRESHOLDS=0"},
		{"TOKENALERT_TEMPLATES=" + filepath.Join(dir, "nowhere")},
		{"TOKENALERT_TEMPLATES=postgres://ann:" + secret + "@h/db"},
		{"TOKENALERT_TEMPLATE=" + dir},
	} {
		status, stdout, said := typed(t, environment, "preview")
		assert.Equal(t, 1, status)
		assert.Empty(t, stdout)
		for _, setting := range environment {
			name, _, _ := strings.Cut(setting, "=")
			assert.Contains(t, said, name)
		}
		assert.NotContains(t, said, secret)
		for _, args := range [][]string{{"run"}, {"run", "--print-config"}} {
			status, _, stderr := typed(t, environment, args...)
			assert.Equal(t, 1, status, args)
			assert.Equal(t, said, stderr, args)
		}
	}
	_, _, said := typed(t, []string{"TOKENALERT_TEMPLATES=" + dir}, "preview")
	assert.Equal(t, "tokenalert: TOKENALERT_TEMPLATES="+dir+": es.near.titel: is no text; the nearest is es.near.title\n"+
		"TOKENALERT_TEMPLATES="+dir+": es.near.title:1: {{percnt}} is no placeholder; the nearest is {{percent}}\n", said)
}

func TestUsedAt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		threshold   int
		limit, want int64
	}{{80, 1000, 800}, {33, 7, 3}, {1, 1, 1}, {100, 3, 3}, {99, 101, 100}, {1000, math.MaxInt64 / 1000, math.MaxInt64 / 1000 * 10}} {
		assert.Equal(t, tt.want, usedAt(tt.threshold, tt.limit), "%d %% of %d", tt.threshold, tt.limit)
	}
}

// TestMessagesPage holds docs/messages.md to the placeholders that there are and
// the files of its example to being taken.
func TestMessagesPage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(messagesPage)
	require.NoError(t, err)
	page := string(text)
	var table strings.Builder
	for _, p := range worker.Placeholders {
		table.WriteString("| `{{" + p.Name + "}}` | " + p.Meaning + " |\n")
	}
	assert.Contains(t, page, "| Placeholder | |\n|---|---|\n"+table.String()+"\n")

	dir := filepath.Join(filepath.Dir(messagesPage), "messages")
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	shown := map[string]bool{}
	for _, p := range previewed(t, []string{"TOKENALERT_TEMPLATES=" + dir}) {
		for _, file := range p.Files {
			shown[file] = true
		}
	}
	assert.Len(t, shown, len(files), "each file of the example is in force")
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(dir, file.Name()))
		require.NoError(t, err)
		assert.Contains(t, page, "`"+file.Name()+"`\n\n```\n"+string(content)+"```\n")
	}
	for _, said := range regexp.MustCompile("(?m)^> (.*)$").FindAllStringSubmatch(page, -1) {
		found := false
		for _, p := range (sample{languages: previewLanguages, thresholds: []int{80, 90, 100}, used: -1, limit: 100_000, name: "Ana Núñez"}).
			previews(exampleWords(t, dir), time.Date(2026, time.November, 28, 0, 0, 0, 0, time.UTC)) {
			found = found || said[1] == p.Title || said[1] == p.Message
		}
		assert.True(t, found, "nobody reads %q", said[1])
	}
}

func exampleWords(t *testing.T, dir string) *worker.Words {
	t.Helper()
	words, err := worker.LoadWords(dir, worker.Spanish)
	require.NoError(t, err)
	return words
}
