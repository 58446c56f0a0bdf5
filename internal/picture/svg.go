package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/hinshun/vt10x"
)

// A cell in SVG units, and the page around them.
const (
	cellWidth, cellHeight = 8.4, 18.0
	margin                = 14.0
	background            = "#0d1117"
	foreground            = "#d1d7e0"
)

// bold is vt10x's bit for it, which it does not export.
const bold = 1 << 2

// draw writes the cells as SVG. Blocks become rectangles, since fonts leave
// gaps between them; all else is text, run by run, stretched to its cells.
func draw(w io.Writer, columns, rows int, cell func(x, y int) vt10x.Glyph) {
	width, height := float64(columns)*cellWidth+2*margin, float64(rows)*cellHeight+2*margin
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="14">`, width, height)
	p(`<title>tokenalert demo</title>`)
	p(`<rect width="100%%" height="100%%" rx="8" fill="%s"/>`, background)
	for y := range rows {
		for x := 0; x < columns; {
			first := cell(x, y)
			n := 1
			for x+n < columns && same(first, cell(x+n, y)) {
				n++
			}
			drawRun(p, x, y, n, cell)
			x += n
		}
	}
	p(`</svg>`)
}

// same reports whether two cells can be drawn in one go.
func same(a, b vt10x.Glyph) bool {
	return a.FG == b.FG && a.BG == b.BG && a.Mode == b.Mode && eighths(a.Char) == eighths(b.Char) && (eighths(a.Char) == 0 || eighths(a.Char) == 8)
}

func drawRun(p func(string, ...any), x, y, n int, cell func(x, y int) vt10x.Glyph) {
	first := cell(x, y)
	left, top := margin+float64(x)*cellWidth, margin+float64(y)*cellHeight
	if first.BG != vt10x.DefaultBG {
		p(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, left, top+3, float64(n)*cellWidth, cellHeight-5, colour(first.BG, background))
	}
	if e := eighths(first.Char); e > 0 {
		p(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, left, top+3, float64(n)*cellWidth*float64(e)/8, cellHeight-5, colour(first.FG, foreground))
		return
	}
	var text strings.Builder
	for i := range n {
		text.WriteRune(max(cell(x+i, y).Char, ' '))
	}
	trimmed := strings.TrimRight(text.String(), " ")
	if trimmed == "" {
		return
	}
	weight := ""
	if first.Mode&bold != 0 {
		weight = ` font-weight="bold"`
	}
	var escaped strings.Builder
	_ = xml.EscapeText(&escaped, []byte(trimmed)) // a strings.Builder does not fail
	p(`<text x="%.1f" y="%.1f" fill="%s"%s textLength="%.1f" lengthAdjust="spacingAndGlyphs" xml:space="preserve">%s</text>`,
		left, top+cellHeight-5, colour(first.FG, foreground), weight, float64(len([]rune(trimmed)))*cellWidth, &escaped)
}

// eighths is how much of a cell a block fills from the left, 0 for what is none.
func eighths(c rune) int {
	if c == '█' {
		return 8
	}
	if i := strings.IndexRune("▏▎▍▌▋▊▉", c); i >= 0 {
		return i/utf8.RuneLen(c) + 1
	}
	return 0
}

// colour is one of xterm's 256 colours as SVG writes it.
func colour(c vt10x.Color, otherwise string) string {
	basic := [16]string{
		"#000000", "#cd3131", "#0dbc79", "#e5e510", "#2472c8", "#bc3fbc", "#11a8cd", "#e5e5e5",
		"#666666", "#f14c4c", "#23d18b", "#f5f543", "#3b8eea", "#d670d6", "#29b8db", "#ffffff",
	}
	step := func(n vt10x.Color) vt10x.Color { return n*40 + min(n, 1)*55 }
	switch {
	case c < 16:
		return basic[c] //nolint:gosec // there are 16
	case c < 232: // a cube of 6 by 6 by 6
		n := c - 16
		return fmt.Sprintf("#%02x%02x%02x", step(n/36), step(n/6%6), step(n%6))
	case c < 256: // 24 greys
		grey := 8 + (c-232)*10
		return fmt.Sprintf("#%02x%02x%02x", grey, grey, grey)
	}
	return otherwise
}
