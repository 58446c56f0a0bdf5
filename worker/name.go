package worker

import (
	"strings"
	"unicode"
)

// maxNameRunes bounds a name in a greeting, the mark of the cut included.
const maxNameRunes = 100

// joiners hold emoji and the letters of several scripts together. They are the
// only invisible format characters that a name keeps: the others can turn the
// direction of the text around them.
const joiners = "\u200c\u200d"

// displayName makes a name fit for a line of text, and cuts a long one. A name
// without anything to see comes back empty.
func displayName(fullName string) string {
	name, visible := oneLine(fullName, maxNameRunes)
	if !visible {
		return ""
	}
	if len(name) > maxNameRunes {
		return strings.TrimRight(string(name[:maxNameRunes-1]), " "+joiners) + "…"
	}
	return string(name)
}

// oneLine makes a line of a text: white space, control characters and broken
// bytes become single spaces, none at the ends, and invisible format characters
// go. It stops after more runes than most, and reports whether there is anything
// to see.
func oneLine(text string, most int) (line []rune, visible bool) {
	space := false
	for _, r := range text { // a broken byte ranges as U+FFFD
		switch {
		case unicode.IsSpace(r), unicode.IsControl(r), r == unicode.ReplacementChar:
			space = len(line) > 0
			continue
		case unicode.Is(unicode.Cf, r) && !strings.ContainsRune(joiners, r):
			continue
		}
		if space {
			line, space = append(line, ' '), false
		}
		line = append(line, r)
		visible = visible || unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S)
		if len(line) > most {
			break
		}
	}
	return line, visible
}
