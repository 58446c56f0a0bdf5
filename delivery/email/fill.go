package email

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// placeholder is {{name}}, with or without spaces around the name. What is too
// long for a name, or has a brace or a line's end in it, is text.
var placeholder = regexp.MustCompile(`\{\{[ \t]*([^{}\r\n]{0,80}?)[ \t]*\}\}`)

// fill puts values in place of the placeholders of text, each through escape.
// A value is never searched for placeholders itself. Names that have no value
// leave nothing behind and are returned, in order and once each.
func fill(text string, values map[string]string, escape func(string) string) (string, []string) {
	var unknown []string
	filled := placeholder.ReplaceAllStringFunc(text, func(found string) string {
		name := placeholder.FindStringSubmatch(found)[1]
		value, known := values[name]
		if !known {
			unknown = append(unknown, oneLine(name, maxName))
		}
		return escape(value)
	})
	slices.Sort(unknown)
	return filled, slices.Compact(unknown)
}

// maxName bounds the name of a person or organization, in runes. It stays far
// below the 998 octets that a line of a header has (RFC 5322, 2.1.1).
const maxName = 100

// joiners hold emoji and the letters of several scripts together. They are the
// only invisible format characters that stay: the others can turn the
// direction of the text around them.
const joiners = "\u200c\u200d"

// oneLine makes text fit for a header or an error: what breaks a line, or
// cannot be seen, becomes a space or goes, and past limit runes it is cut.
func oneLine(text string, limit int) string {
	seen := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), unicode.IsControl(r):
			return ' '
		case unicode.Is(unicode.Cf, r) && !strings.ContainsRune(joiners, r):
			return -1
		}
		return r // a broken byte ranges as U+FFFD
	}, text)
	line := []rune(strings.Join(strings.Fields(seen), " "))
	if len(line) > limit {
		return strings.TrimRight(string(line[:limit-1]), " "+joiners) + "…"
	}
	return string(line)
}

// lines makes text fit for a body: one kind of line end, valid UTF-8, and no
// control characters, which some servers refuse.
func lines(text string) string {
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, text)
}
