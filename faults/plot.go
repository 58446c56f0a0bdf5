package main

import (
	"fmt"
	"slices"
	"strings"
)

// Sizes of the picture, in pixels.
const (
	panelWidth, panelHeight = 720, 130
	marginLeft, marginTop   = 56, 30
)

var colours = []string{"#2563eb", "#dc2626", "#16a34a"}

// svg draws each course under the one before, over the minutes of the soak.
func (s *soaked) svg() string {
	courses := s.courses()
	var b strings.Builder
	height := len(courses)*(panelHeight+marginTop+14) + 20
	_, _ = fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", panelWidth+marginLeft+20, height)
	_, _ = fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	minutes := 0.0
	if n := len(s.samples); n > 0 {
		minutes = s.samples[n-1].After.Minutes()
	}
	for i, c := range courses {
		top := marginTop + i*(panelHeight+marginTop+14)
		highest := 1.0
		for _, values := range c.values {
			highest = max(highest, slices.Max(append(values, 1)))
		}
		title := c.name
		if c.unit != "" {
			title += ", " + c.unit
		}
		_, _ = fmt.Fprintf(&b, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", marginLeft, top-8, title)
		_, _ = fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#d4d4d4"/>`+"\n", marginLeft, top, panelWidth, panelHeight)
		_, _ = fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%.0f</text><text x="%d" y="%d" text-anchor="end">0</text>`+"\n",
			marginLeft-6, top+10, highest, marginLeft-6, top+panelHeight)
		for n, values := range c.values {
			_, _ = fmt.Fprintf(&b, `<path fill="none" stroke="%s" d="%s"/>`+"\n", colours[n%len(colours)], path(values, highest, top))
		}
	}
	_, _ = fmt.Fprintf(&b, `<text x="%d" y="%d">0</text><text x="%d" y="%d" text-anchor="end">%.0f min</text>`+"\n</svg>\n",
		marginLeft, height-18, marginLeft+panelWidth, height-18, minutes)
	return b.String()
}

// path is a line through what is known.
func path(values []float64, highest float64, top int) string {
	var b strings.Builder
	command := "M"
	for i, v := range values {
		if v == 0 {
			command = "M"
			continue
		}
		x := marginLeft + float64(i)*panelWidth/float64(max(1, len(values)-1))
		y := float64(top+panelHeight) - v/highest*(panelHeight-6)
		_, _ = fmt.Fprintf(&b, "%s%.1f %.1f", command, x, y)
		command = "L"
	}
	return b.String()
}
