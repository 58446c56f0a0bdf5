package worker

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// wordsIn writes files into a directory, each "name: content".
func wordsIn(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, file := range files {
		name, content, found := strings.Cut(file, ": ")
		require.True(t, found, file)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return dir
}

func loadWords(t *testing.T, dir string) *Words {
	t.Helper()
	words, err := LoadWords(dir, English)
	require.NoError(t, err)
	return words
}

// inMiddleOfMay has used so much of 1,000.
func inMiddleOfMay(threshold int, used int64) Notice {
	return Notice{
		FullName: "Ana", Threshold: threshold, TokensUsed: used, TokenLimit: 1000,
		PeriodStart: mayBegins, Now: midMay, PeriodEnd: mayEnds,
	}
}

func TestWordsOfTheBuiltInFiles(t *testing.T) {
	t.Parallel()
	templates := builtInTemplates()
	assert.Len(t, templates, len(languages)*len(kinds)*len(parts))
	for _, lang := range languages {
		assert.Contains(t, wordings, lang)
	}
	assert.Len(t, wordings, len(languages))
}

func TestOwnWordsTakeThePlaceOfOurs(t *testing.T) {
	t.Parallel()
	dir := wordsIn(t,
		"en.warning.title: {{percent}} gone\n",
		"en.warning.message: {{if recipient_name}}Dear {{recipient_name}}: {{end}}{{tokens_used}} of {{token_limit}} {{token_word}}\r\n\tare gone ({{threshold}} %).{{if pace}} {{pace}} Yes, {{pace_date}}.{{else}} No hurry.{{end}} See you on {{reset_date}}.\n",
		"en.exceeded.title: Over {{threshold}}%",
		"es.reached.message: Vuelve el {{reset_date}}.",
		".hidden: {{",
	)
	words := loadWords(t, dir)
	late, nameless := inMiddleOfMay(80, 812), inMiddleOfMay(80, 812)
	late.Now = mayEnds.Add(-24 * time.Hour)
	nameless.FullName = " "
	inSpanish := inMiddleOfMay(100, 1000)
	inSpanish.Language = new("es-CL")
	tests := []struct {
		name        string
		n           Notice
		title, body string
		files       []string
	}{
		{"both", inMiddleOfMay(80, 812), "81.2% gone", "Dear Ana: 812 of 1,000 tokens are gone (80 %). At this pace you will reach your limit on May 18, 2026. Yes, May 18, 2026. See you on June 1, 2026.", []string{"en.warning.title", "en.warning.message"}},
		{"no pace", late, "81.2% gone", "Dear Ana: 812 of 1,000 tokens are gone (80 %). No hurry. See you on June 1, 2026.", []string{"en.warning.title", "en.warning.message"}},
		{"no name", nameless, "81.2% gone", "812 of 1,000 tokens are gone (80 %). At this pace you will reach your limit on May 18, 2026. Yes, May 18, 2026. See you on June 1, 2026.", []string{"en.warning.title", "en.warning.message"}},
		{"a title alone", inMiddleOfMay(150, 1501), "Over 150%", "Hello Ana, you have used 1,501 AI tokens this period, 150.1% of your limit of 1,000. AI will not be available to you until June 1, 2026, when your limit resets.", []string{"en.exceeded.title"}},
		{"a message alone", inSpanish, "⚠️ Límite de tokens de IA alcanzado", "Vuelve el 1 de junio de 2026.", []string{"es.reached.message"}},
		{"none", inMiddleOfMay(90, 900), "⚡ 90% of AI tokens used", render(inMiddleOfMay(90, 900), English).Body, []string{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, Message{tt.title, tt.body}, words.Render(tt.n))
			assert.Equal(t, tt.files, words.Files(tt.n))
			values := words.Values(tt.n)
			assert.Equal(t, tt.title, values["title"])
			assert.Equal(t, tt.body, values["message"])
		})
	}
}

func TestWordsValues(t *testing.T) {
	t.Parallel()
	values := BuiltInWords(Portuguese).Values(inMiddleOfMay(80, 812))
	assert.Equal(t, map[string]string{
		"recipient_name": "Ana", "user_name": "Ana", "threshold": "80", "tokens_used": "812", "token_limit": "1.000", "token_word": "tokens", "percent": "81,2%",
		"reset_date": "1 de junho de 2026", "pace_date": "18 de maio de 2026", "pace": "Neste ritmo, você atingirá seu limite em 18 de maio de 2026.",
		"title":   "📊 80% dos tokens de IA utilizados",
		"message": "Olá, Ana! Você usou 812 tokens de IA neste período, 81,2% do seu limite de 1.000. Neste ritmo, você atingirá seu limite em 18 de maio de 2026. Seu limite será renovado em 1 de junho de 2026.",
	}, values)
	for _, p := range Placeholders {
		assert.Contains(t, values, p.Name)
	}
	assert.Len(t, values, len(Placeholders)+2)
}

// What is read at start stays, and links are followed: kubelet swaps the folder
// that the files of a ConfigMap link to.
func TestWordsOfAConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "..2026_11_28_12_00_00.1")
	require.NoError(t, os.Mkdir(data, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(data, "en.reached.title"), []byte("No more"), 0o600))
	require.NoError(t, os.Symlink(filepath.Base(data), filepath.Join(dir, "..data")))
	require.NoError(t, os.Symlink(filepath.Join("..data", "en.reached.title"), filepath.Join(dir, "en.reached.title")))
	words := loadWords(t, dir)
	assert.Equal(t, "No more", words.Render(inMiddleOfMay(100, 1000)).Title)
	require.NoError(t, os.RemoveAll(data))
	assert.Equal(t, "No more", words.Render(inMiddleOfMay(100, 1000)).Title)
	_, err := LoadWords(dir, English)
	require.ErrorContains(t, err, "en.reached.title: cannot be read: no such file or directory")
}

func TestLoadWordsRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, file, says string }{
		{"nothing", "", "holds no texts; a file is named such as es.reached.title, and off is without"},
		{"hidden ones alone", ".es.reached.title: x", "holds no texts"},
		{"another name", "README.md: x", "README.md: is no text; files are named LANGUAGE.KIND.PART: es, en or pt; warning, near, reached, exceeded, admin or budget; title or message"},
		{"a slip", "es.reached.titel: x", "es.reached.titel: is no text; the nearest is es.reached.title"},
		{"capitals", "EN.near.message: x", "EN.near.message: there are texts in es, en and pt, not in EN"},
		{"another language", "fr.reached.title: x", "fr.reached.title: there are texts in es, en and pt, not in fr, whose dates and numbers are not known"},
		{"an address", "a@b.reached.title: x", "not in (not shown)"},
		{"empty", "es.near.title: \n", "es.near.title: shows nothing, told to a user without a name and without a pace"},
		{"nothing to see", "es.near.title: \u200b\u200d", "es.near.title: shows nothing"},
		{"a name alone", "es.near.title: {{recipient_name}}", "es.near.title: shows nothing, told to a user without a name and without a pace"},
		{"a pace alone", "pt.near.message: {{pace}}", "pt.near.message: shows nothing, told to a user without a name and without a pace"},
		{"names alone, where there is a pace", "pt.near.message: {{if pace}}{{recipient_name}}{{else}}x{{end}}", "shows nothing, told to a user without a name and with a pace"},
		{"a long title", "es.near.title: " + strings.Repeat("ñ", 256), "es.near.title: has more than the 255 characters that a title may have"},
		{"a title that a name makes long", "es.near.title: {{recipient_name}} {{recipient_name}}" + strings.Repeat(".", 55), "has more than the 255 characters that a title may have, told to a user with the longest name and without a pace"},
		{"a long message", "es.near.message: " + strings.Repeat("x", 4001), "has more than the 4000 characters that a message may have"},
		{"a long file", "es.near.message: " + strings.Repeat(" ", 16<<10) + "x", "es.near.message: has 16385 bytes; it may have 16384"},
		{"Latin-1", "es.near.message: a\nL\xedmite", "es.near.message: line 2 is not plain text in UTF-8"},
		{"a control character", "es.near.message: a\x1b[2J", "es.near.message: line 1 is not plain text in UTF-8"},
		{"a slip in a placeholder", "es.near.message: a\nb {{percnt}}", "es.near.message:2: {{percnt}} is no placeholder; the nearest is {{percent}}"},
		{"an unknown placeholder", "es.near.message: {{email}}", "es.near.message:1: {{email}} is no placeholder; there are recipient_name, user_name, threshold, tokens_used, token_limit, token_word, percent, reset_date, pace, pace_date"},
		{"what is not for texts", "es.near.message: {{title}}", "{{title}} is no placeholder"},
		{"an unknown condition", "es.near.message: {{if x}}a{{end}}", "es.near.message:1: {{x}} is no placeholder"},
		{"deep within", "es.near.message: a{{if pace}}b{{else if recipient_name}}c{{else}}\n{{emial}}{{end}}", "es.near.message:2: {{emial}} is no placeholder"},
		{"a field", "es.near.message: {{.Percent}}", "es.near.message:1: .Percent is not understood; a text may have {{PLACEHOLDER}} and {{if PLACEHOLDER}} … {{else}} … {{end}}"},
		{"all", "es.near.message: {{.}}", ". is not understood"},
		{"a call", "es.near.message: {{printf \"%d\" 5}}", "is not understood"},
		{"a pipe", "es.near.message: {{percent | len}}", "percent | len is not understood"},
		{"a variable", "es.near.message: {{$x := percent}}", "is not understood"},
		{"a loop", "es.near.message: {{range percent}}a{{end}}", "is not understood"},
		{"a with", "es.near.message: {{with percent}}a{{end}}", "is not understood"},
		{"another template", "es.near.message: {{template \"x\"}}", "is not understood"},
		{"a definition", "es.near.message: a{{define \"x\"}}b{{end}}", "es.near.message: has a {{define}} or {{block}}"},
		{"a definition of itself", "es.near.message: {{define \"es.near.message\"}}b{{end}}", "es.near.message:"},
		{"a block", "es.near.message: a{{block \"x\" .}}b{{end}}", "has a {{define}} or {{block}}"},
		{"no end", "es.near.message: a\n\n{{if pace}}b", "es.near.message:3: unexpected EOF; a text may have"},
		{"not closed", "es.near.message: {{percent", "es.near.message:1: unclosed action; a text may have"},
		{"the host's form", "es.near.message: {{ recipient-name }}", "es.near.message:1: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var files []string
			if tt.file != "" {
				files = append(files, tt.file)
			}
			dir := wordsIn(t, files...)
			_, err := LoadWords(dir, English)
			require.Error(t, err)
			assert.Contains(t, err.Error(), tt.says)
			assert.True(t, strings.HasPrefix(err.Error(), "TOKENALERT_TEMPLATES="+dir+": "), err)
			assert.Len(t, strings.Split(err.Error(), "\n"), 1, "one mistake, one line")
		})
	}
}

func TestLoadWordsReportsAllAtOnce(t *testing.T) {
	t.Parallel()
	dir := wordsIn(t, "es.near.title: {{a}}{{b}}", "es.reached.title: fine", "pt.near.title: {{", "readme: x")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "en.near.title"), 0o700))
	_, err := LoadWords(dir, English)
	require.Error(t, err)
	require.ErrorContains(t, err, "en.near.title: is not a file") // nor is a pipe, which would be waited for
	var lines []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		rest, found := strings.CutPrefix(line, "TOKENALERT_TEMPLATES="+dir+": ")
		require.True(t, found, line)
		lines = append(lines, rest[:strings.Index(rest, ": ")])
	}
	assert.Equal(t, []string{"en.near.title", "es.near.title:1", "es.near.title:1", "pt.near.title:1", "readme"}, lines, err)
}

func TestLoadWordsWithoutADirectory(t *testing.T) {
	t.Parallel()
	for _, none := range []string{"", "off"} {
		assert.Equal(t, render(inMiddleOfMay(80, 800), English), loadWords(t, none).Render(inMiddleOfMay(80, 800)))
	}
	_, err := LoadWords(filepath.Join(t.TempDir(), "nowhere"), English)
	require.ErrorContains(t, err, "nowhere: cannot be read: no such file or directory; it must be a directory, or off")
	_, err = LoadWords(filepath.Join(wordsIn(t, "es.near.title: x"), "es.near.title"), English)
	require.ErrorContains(t, err, "cannot be read: not a directory; it must be a directory, or off")
}

// Whatever a text consists of: once it was taken, everybody who is told reads it,
// and it keeps within its bounds.
func TestWordsThatWereCheckedDoNotFail(t *testing.T) {
	t.Parallel()
	atoms := []string{" ", "\n", "a", "⚠️", "\u200d", "\u00a0", "{{- /* x */ -}}", strings.Repeat("x", 120)}
	for _, p := range Placeholders {
		atoms = append(atoms, "{{"+p.Name+"}}")
	}
	var text func(t *rapid.T, depth int) string
	text = func(t *rapid.T, depth int) string {
		var b strings.Builder
		for range rapid.IntRange(0, 3).Draw(t, "atoms") {
			b.WriteString(rapid.SampledFrom(atoms).Draw(t, "atom"))
			if depth > 0 && rapid.Bool().Draw(t, "branch") {
				b.WriteString("{{if " + rapid.SampledFrom(Placeholders).Draw(t, "of").Name + "}}" + text(t, depth-1) + "{{else}}" + text(t, depth-1) + "{{end}}")
			}
		}
		return b.String()
	}
	dir := t.TempDir()
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.IntRange(0, 1).Draw(t, "part")
		lang := rapid.SampledFrom(languages).Draw(t, "language")
		kind := rapid.SampledFrom(kinds).Draw(t, "kind")
		file := fileOf(lang, kind, parts[part].name)
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text(t, 2)), 0o600))
		words, err := LoadWords(dir, lang)
		require.NoError(t, os.Remove(filepath.Join(dir, file)))
		if err != nil {
			return
		}
		taken++
		n := somebody(t)
		n.FullName = rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", strings.Repeat("ñ", 200), "{{percent}}"})).Draw(t, "name")
		n.Threshold = map[Kind]int{KindWarning: 80, KindNear: 90, KindReached: 100, KindExceeded: math.MaxInt}[kind]
		got, ok := words.own[file].fill(wordings[lang].filling(n).value, parts[part].most)
		require.True(t, ok, "refused only now: %q", got)
		require.NotEmpty(t, got)
		require.LessOrEqual(t, utf8.RuneCountInString(got), parts[part].most)
		require.True(t, utf8.ValidString(got))
		require.Negative(t, strings.IndexFunc(got, unicode.IsControl))
		require.NotContains(t, got, "{{if")
	})
	assert.Positive(t, taken)
}

// A date of more digits than any that is told would make it longer than was
// checked. Then ours stand in.
func TestWordsFallBackToOurs(t *testing.T) {
	t.Parallel()
	n := inMiddleOfMay(80, 812)
	n.PeriodEnd = time.Date(123_456, time.September, 30, 0, 0, 0, 0, time.UTC)
	words := loadWords(t, wordsIn(t, "en.warning.title: "+strings.Repeat("x", 255-len("September 30, 2000"))+"{{reset_date}}"))
	assert.Equal(t, "📊 80% of AI tokens used", words.Render(n).Title)
	n.PeriodEnd = mayEnds
	assert.True(t, strings.HasPrefix(words.Render(n).Title, "xxx"))
}

// Nothing in a file makes loading it fail otherwise than with its name, on a line.
func FuzzLoadWords(f *testing.F) {
	for _, seed := range []string{"", "{{", "}}", "{{percent}}", "{{if pace}}{{pace}}{{end}}", "{{else}}", "{{/*", "{{(((", "{{`a\nb`}}", "{{\"\\n\"}}", "{{define \"es.near.title\"}}{{end}}", "{{break}}", "{{- 1 -}}", "\xff", "{{$}}", "{{nil}}", "{{if}}{{end}}", "{{percent.x}}", "{{(percent)}}"} {
		f.Add(seed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "es.near.title"), []byte(content), 0o600))
		words, err := LoadWords(dir, Spanish)
		if err == nil {
			require.NotEmpty(t, words.Render(inMiddleOfMay(90, 912)).Title)
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			require.True(t, strings.HasPrefix(line, "TOKENALERT_TEMPLATES="+dir+": es.near.title:"), line)
			require.True(t, utf8.ValidString(line))
			require.Negative(t, strings.IndexFunc(line, unicode.IsControl), line)
		}
	})
}
