package worker

import (
	"strings"
	"unicode"
	"unicode/utf8"
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
	name, runes, visible := oneLine(fullName, maxNameRunes)
	if !visible {
		return ""
	}
	if runes > maxNameRunes {
		return strings.TrimRight(string([]rune(name)[:maxNameRunes-1]), " "+joiners) + "…"
	}
	return name
}

// oneLine makes a line of a text: white space, control characters and broken
// bytes become single spaces, none at the ends, and invisible format characters
// go. It stops after more runes than most, and reports how many they are and
// whether there is anything to see.
func oneLine(text string, most int) (line string, runes int, visible bool) {
	b := make([]byte, 0, min(len(text), 4*most))
	space := false
	for _, r := range text { // a broken byte ranges as U+FFFD
		if r <= ' ' || r > '~' { // nearly all of them are neither
			switch {
			case unicode.IsSpace(r), unicode.IsControl(r), r == unicode.ReplacementChar:
				space = runes > 0
				continue
			case unicode.Is(unicode.Cf, r) && !strings.ContainsRune(joiners, r):
				continue
			}
		}
		if space {
			b = append(b, ' ')
			runes, space = runes+1, false
		}
		b = utf8.AppendRune(b, r)
		runes++
		visible = visible || unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S)
		if runes > most {
			break
		}
	}
	return string(b), runes, visible
}
