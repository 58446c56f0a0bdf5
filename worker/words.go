package worker

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// The two texts of a message, and how many characters each may have: a title
// what notifications.title holds, a message what somebody would still read.
var parts = []struct {
	name string
	most int
}{{"title", 255}, {"message", 4000}}

const (
	templatesOff = "off"
	// templateBytes bounds a file, and with it how deep it can nest.
	templateBytes = 16 << 10
)

// The built-in texts are files of the form that TOKENALERT_TEMPLATES takes.
//
//go:embed words
var builtInFiles embed.FS

var builtInTemplates = sync.OnceValue(func() map[string]template {
	folder, err := fs.Sub(builtInFiles, "words")
	if err != nil {
		panic("the built-in texts are not there: " + err.Error())
	}
	templates, errs := readTemplates(folder)
	if len(errs) > 0 {
		panic("the built-in texts are invalid: " + errors.Join(errs...).Error())
	}
	return templates
})

// Words are the texts that users are told in: the built-in ones, and in their
// place those of a directory.
type Words struct {
	fallback Language
	own      map[string]template // by the name of the file
}

// BuiltInWords are those without a directory. Users whose language is none of
// ours are written to in fallback, or in Spanish where fallback is none either.
func BuiltInWords(fallback Language) *Words { return &Words{fallback: fallback} }

// LoadWords reads the texts of a directory, the value of TOKENALERT_TEMPLATES;
// with "off" or "" there are none but the built-in ones. It checks them as far as
// that they cannot fail when somebody is told, and says all that is wrong at once,
// each with the file and, where it is known, the line. What it has read stays as
// it is, whatever becomes of the files.
func LoadWords(dir string, fallback Language) (*Words, error) {
	words := BuiltInWords(fallback)
	if dir == templatesOff || dir == "" {
		return words, nil
	}
	own, errs := readTemplates(os.DirFS(dir))
	for i, err := range errs {
		errs[i] = fmt.Errorf("TOKENALERT_TEMPLATES=%s: %w", settingText(dir), err)
	}
	words.own = own
	return words, errors.Join(errs...)
}

// Render writes n in the user's language.
func (w *Words) Render(n Notice) Message {
	lang := w.LanguageOf(n)
	return w.message(lang, n.Kind(), wordings[lang].filling(n).value)
}

// Values are what the placeholders of n stand for, in the user's language, and
// beside them its "title" and "message".
func (w *Words) Values(n Notice) map[string]string {
	lang := w.LanguageOf(n)
	value := wordings[lang].filling(n).value
	m := w.message(lang, n.Kind(), value)
	values := map[string]string{"title": m.Title, "message": m.Body}
	for _, p := range Placeholders {
		values[p.Name] = value(p.Name)
	}
	return values
}

// Files names the files of the directory that n is written from: none, one or
// both of its title and its message.
func (w *Words) Files(n Notice) []string {
	files := []string{}
	for _, part := range parts {
		if t, ok := w.own[fileOf(w.LanguageOf(n), n.Kind(), part.name)]; ok {
			files = append(files, t.name)
		}
	}
	return files
}

// LanguageOf is what n is written in.
func (w *Words) LanguageOf(n Notice) Language {
	for _, tag := range []*string{n.Language, n.OrganizationLanguage} {
		if tag == nil {
			continue
		}
		if lang, ok := ParseLanguage(*tag); ok {
			return lang
		}
	}
	if _, ok := wordings[w.fallback]; ok {
		return w.fallback
	}
	return Spanish
}

func (w *Words) message(lang Language, kind Kind, value func(placeholder string) string) Message {
	var texts [2]string
	for i, part := range parts {
		file := fileOf(lang, kind, part.name)
		text, ok := "", false
		if own, found := w.own[file]; found {
			// It was checked with the longest values of this century. Should these be
			// longer yet, the user is told all the same.
			text, ok = own.fill(value, part.most)
		}
		if !ok {
			text, _ = builtInTemplates()[file].fill(value, part.most)
		}
		texts[i] = text
	}
	return Message{Title: texts[0], Body: texts[1]}
}

func fileOf(lang Language, kind Kind, part string) string {
	return string(lang) + "." + string(kind) + "." + part
}

// readTemplates reads all files of a directory but those whose names begin with a
// dot, as do those in which Kubernetes keeps what a ConfigMap's files link to.
func readTemplates(folder fs.FS) (map[string]template, []error) {
	entries, err := fs.ReadDir(folder, ".")
	if err != nil {
		return nil, []error{fmt.Errorf("cannot be read: %w; it must be a directory, or off", withoutPath(err))}
	}
	templates := map[string]template{}
	var errs []error
	seen := 0
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		seen++
		t, faults := readTemplate(folder, entry.Name())
		templates[t.name] = t
		errs = append(errs, faults...)
	}
	if seen == 0 {
		errs = append(errs, errors.New("holds no texts; a file is named such as es.reached.title, and off is without"))
	}
	return templates, errs
}

func readTemplate(folder fs.FS, name string) (template, []error) {
	lang, part, err := textOf(name)
	if err != nil {
		return template{}, []error{err}
	}
	source, err := readText(folder, name)
	if err != nil {
		return template{}, []error{fmt.Errorf("%s: %w", name, err)}
	}
	t, errs := parseTemplate(name, source)
	if len(errs) > 0 {
		return t, errs
	}
	most := parts[part].most
	for _, values := range extremes(lang) {
		text, ok := t.fill(func(placeholder string) string { return values[placeholder] }, most)
		if ok {
			continue
		}
		fault := fmt.Sprintf("has more than the %d characters that a %s may have", most, parts[part].name)
		if utf8.RuneCountInString(text) <= most {
			fault = "shows nothing"
		}
		return t, []error{fmt.Errorf("%s: %s, told to a user %s", name, fault, describe(values))}
	}
	return t, nil
}

// textOf says of which language and which part of a message the text of a file is.
func textOf(name string) (lang Language, part int, err error) {
	var names []string
	for _, l := range languages {
		for _, k := range kinds {
			for i, p := range parts {
				file := fileOf(l, k, p.name)
				if file == name {
					return l, i, nil
				}
				names = append(names, file)
			}
		}
	}
	shown, _, _ := oneLine(name, 255)
	before, rest, _ := strings.Cut(name, ".")
	if slices.Contains(names, "es."+rest) {
		return "", 0, fmt.Errorf("%s: there are texts in es, en and pt, not in %s, whose dates and numbers are not known", shown, settingText(before))
	}
	advice := "files are named LANGUAGE.KIND.PART: es, en or pt; warning, near, reached, exceeded, admin or budget; title or message"
	if nearest := Nearest(name, names); nearest != "" {
		advice = "the nearest is " + nearest
	}
	return "", 0, fmt.Errorf("%s: is no text; %s", shown, advice)
}

func readText(folder fs.FS, name string) (string, error) {
	info, err := fs.Stat(folder, name) // of what a link leads to
	switch {
	case err != nil:
		return "", fmt.Errorf("cannot be read: %w", withoutPath(err))
	case !info.Mode().IsRegular():
		return "", errors.New("is not a file")
	case info.Size() > templateBytes:
		return "", fmt.Errorf("has %d bytes; it may have %d", info.Size(), templateBytes)
	}
	content, err := fs.ReadFile(folder, name)
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", withoutPath(err))
	}
	source := string(content)
	for number, line := range strings.Split(source, "\n") {
		odd := strings.IndexFunc(line, func(r rune) bool { return unicode.IsControl(r) && !unicode.IsSpace(r) })
		if !utf8.ValidString(line) || odd >= 0 {
			return "", fmt.Errorf("line %d is not plain text in UTF-8", number+1)
		}
	}
	return source, nil
}

// withoutPath leaves out the path, which who reads the error knows already.
func withoutPath(err error) error {
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		return file.Err
	}
	return err
}

// extremes are values for each of the ways in which a text can come out. A text
// asks of a value only whether there is one, and all but the name and the pace
// are always there; so with these at their longest, and there or not, whatever a
// text can become is no longer and shows something.
func extremes(lang Language) []map[string]string {
	w := wordings[lang]
	number, day := w.number(math.MinInt64), ""
	for _, month := range w.months {
		if date := w.date(30, month, "2000"); utf8.RuneCountInString(date) > utf8.RuneCountInString(day) {
			day = date
		}
	}
	var all []map[string]string
	for _, name := range []string{"", strings.Repeat("w", maxNameRunes)} {
		for _, paceDate := range []string{"", day} {
			values := map[string]string{
				"recipient_name": name, "user_name": name, "threshold": number, "tokens_used": number, "token_limit": number, "token_word": "tokens",
				"percent": number + w.decimalSign + "0%", "reset_date": day, "pace": "", "pace_date": paceDate,
			}
			if paceDate != "" {
				values["pace"] = strings.Replace(w.pace, "%s", paceDate, 1)
			}
			all = append(all, values)
		}
	}
	return all
}

// describe says whom such values belong to.
func describe(values map[string]string) string {
	name, pace := "with the longest name", "with a pace"
	if values["recipient_name"] == "" {
		name = "without a name"
	}
	if values["pace"] == "" {
		pace = "without a pace"
	}
	return name + " and " + pace
}
