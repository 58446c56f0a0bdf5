package main

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"

	"tokenalert/deploy/monitoring/dashboard"
)

// Sizes, in pixels: of a unit of the dashboard's grid, of the page around it, and of
// what surrounds the curves of a panel.
const (
	column, row = 50, 25
	pageTop     = 40
	padding     = 8
	plotTop     = 26
	plotBottom  = 40
	plotLeft    = 54
)

var (
	colours = []string{"#2563eb", "#dc2626", "#16a34a", "#d97706", "#7c3aed", "#0891b2", "#db2777"}
	// Grafana's names of colours, in a shade that is seen on white.
	named = map[string]string{"green": "#16a34a", "orange": "#d97706", "red": "#dc2626"}
)

// svg is what is drawn so far.
type svg struct{ strings.Builder }

func (s *svg) p(format string, args ...any) { _, _ = fmt.Fprintf(&s.Builder, format+"\n", args...) }

// text is anchored at start, middle or end.
func (s *svg) text(x, y float64, anchor, style, text string) {
	s.p(`<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`, x, y, anchor, style, html.EscapeString(text))
}

// draw draws each panel where the dashboard has it.
func draw(d *dashboard.Dashboard, answers []answer, p played) string {
	rows := 0
	for _, panel := range d.Panels {
		rows = max(rows, panel.Place.Y+panel.Place.H)
	}
	s := &svg{}
	s.p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11" fill="#262626">`, 24*column+2*padding, pageTop+rows*row+padding)
	s.p(`<rect width="100%%" height="100%%" fill="#f5f5f5"/>`)
	s.text(2*padding, 26, "start", `font-size="16" font-weight="bold"`, d.Title)
	s.text(24*column, 26, "end", `fill="#737373"`, p.begin.UTC().Format("2006-01-02")+"; dashed: the leader was killed")
	for i, panel := range d.Panels {
		box := box{
			float64(padding + panel.Place.X*column + 2), float64(pageTop + panel.Place.Y*row + 2),
			float64(panel.Place.W*column - 4), float64(panel.Place.H*row - 4),
		}
		s.p(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="3" fill="white" stroke="#d4d4d4"/>`, box.x, box.y, box.w, box.h)
		s.text(box.x+padding, box.y+16, "start", `font-weight="bold"`, panel.Title)
		if panel.Type == "stat" {
			s.stat(panel, answers[i], box)
		} else {
			s.curves(panel, answers[i], box, p)
		}
	}
	s.p(`</svg>`)
	return s.String()
}

type box struct{ x, y, w, h float64 }

// stat draws one value, or the name of its series, in the colour of its step.
func (s *svg) stat(panel dashboard.Panel, a answer, b box) {
	f := panel.Field.Defaults
	text, colour := f.NoValue, "#262626"
	if len(a.series) > 0 {
		value := float64(a.series[0].points[0].Value)
		text = brief(value, f.Unit)
		if f.Decimals != nil && *f.Decimals == 0 {
			text = fmt.Sprintf("%.0f", value)
		}
		if panel.Options.TextMode == "name" {
			text = a.series[0].name
		}
		for _, step := range f.Thresholds.Steps {
			if step.Value == nil || value >= *step.Value {
				colour = named[step.Color]
			}
		}
	}
	s.text(b.x+b.w/2, b.y+b.h-22, "middle", fmt.Sprintf(`font-size="22" fill="%s"`, colour), text)
}

// curves draws series over the time that was played.
func (s *svg) curves(panel dashboard.Panel, a answer, b box, p played) {
	f := panel.Field.Defaults
	bars := f.Custom.DrawStyle == "bars"
	highest := 0.0
	sums := map[int64]float64{} // of what is stacked
	for _, c := range a.series {
		for _, point := range c.points {
			v := float64(point.Value)
			if bars {
				sums[int64(point.Timestamp)] += v
				v = sums[int64(point.Timestamp)]
			}
			if !math.IsNaN(v) {
				highest = max(highest, v)
			}
		}
	}
	if f.Max != nil {
		highest = *f.Max
	} else if highest == 0 {
		highest = 1
	}
	plot := box{b.x + plotLeft, b.y + plotTop, b.w - plotLeft - padding, b.h - plotTop - plotBottom}
	from, to := float64(p.begin.UnixMilli()), float64(p.end.UnixMilli())
	x := func(ms float64) float64 { return plot.x + plot.w*(ms-from)/(to-from) }
	y := func(v float64) float64 { return plot.y + plot.h*(1-v/highest) }
	for _, share := range []float64{0, 0.5, 1} {
		s.p(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1[2]f" stroke="#e5e5e5"/>`, plot.x, y(share*highest), plot.x+plot.w)
		s.text(plot.x-4, y(share*highest)+4, "end", `fill="#737373" font-size="10"`, brief(share*highest, f.Unit))
	}
	upright := func(at float64, style string) {
		s.p(`<path d="M%.1f %.1fV%.1f" stroke="%s"/>`, at, plot.y, plot.y+plot.h, style)
	}
	for minute := time.Minute; minute < p.end.Sub(p.begin)-time.Second; minute += time.Minute {
		at := x(from + float64(minute.Milliseconds()))
		upright(at, "#e5e5e5")
		s.text(at, plot.y+plot.h+11, "middle", `fill="#737373" font-size="10"`, brief(minute.Seconds(), "s"))
	}
	upright(x(float64(p.killed.UnixMilli())), `#737373" stroke-dasharray="3 3`)
	stacked := map[int64]float64{}
	for i, c := range a.series {
		colour := colours[i%len(colours)]
		if bars {
			s.bars(c, colour, plot.w/points, x, y, stacked)
		} else {
			s.line(c, colour, f.Custom.Interpolation == "stepAfter", x, y)
		}
	}
	s.legend(a, b)
}

// line goes through what is known; a gap longer than two steps stays one.
func (s *svg) line(c series, colour string, steps bool, x, y func(float64) float64) {
	var path strings.Builder
	var before, height float64
	gap := 0.0
	for i, point := range c.points {
		at, v := x(float64(point.Timestamp)), float64(point.Value)
		if math.IsNaN(v) {
			before = 0
			continue
		}
		if i == 1 {
			gap = 2.5 * (at - x(float64(c.points[0].Timestamp)))
		}
		switch now := y(v); {
		case before == 0 || gap > 0 && at-before > gap:
			_, _ = fmt.Fprintf(&path, "M%.1f %.1f", at, now)
		case steps && now != height:
			_, _ = fmt.Fprintf(&path, "H%.1fV%.1f", at, now)
		default:
			_, _ = fmt.Fprintf(&path, "L%.1f %.1f", at, now)
		}
		before, height = at, y(v)
	}
	s.p(`<path fill="none" stroke="%s" stroke-width="1.3" stroke-linejoin="round" d="%s"/>`, colour, path.String())
}

// bars stand on those of the series before.
func (s *svg) bars(c series, colour string, width float64, x, y func(float64) float64, stacked map[int64]float64) {
	for _, point := range c.points {
		v := float64(point.Value)
		if math.IsNaN(v) || v <= 0 {
			continue
		}
		foot := stacked[int64(point.Timestamp)]
		stacked[int64(point.Timestamp)] = foot + v
		s.p(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`, x(float64(point.Timestamp))-width, y(foot+v), width, y(foot)-y(foot+v), colour)
	}
}

// legend names the series, as far as there is room.
func (s *svg) legend(a answer, b box) {
	const letter = 5.6 // the width of one, about
	x, y := b.x+padding, b.y+b.h-16
	for i, c := range a.series {
		if c.name == "" {
			continue
		}
		wide := 14 + letter*float64(len(c.name)) + 8
		if x+wide > b.x+b.w && x > b.x+padding {
			x, y = b.x+padding, y+12
		}
		s.p(`<rect x="%.1f" y="%.1f" width="9" height="3" fill="%s"/>`, x, y-5, colours[i%len(colours)])
		s.text(x+13, y, "start", `font-size="10"`, c.name)
		x += wide
	}
}

// brief writes a value in Grafana's units.
func brief(v float64, unit string) string {
	switch unit {
	case "s":
		for _, u := range []struct {
			seconds float64
			name    string
		}{{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}, {1e-3, "ms"}} {
			if math.Abs(v) >= u.seconds {
				return digits(v/u.seconds) + " " + u.name
			}
		}
		if v == 0 {
			return "0"
		}
		return digits(v*1e6) + " µs"
	case "bytes":
		return digits(v/(1<<20)) + " MiB"
	case "percentunit":
		return digits(v*100) + " %"
	}
	if math.Abs(v) >= 10_000 {
		return digits(v/1000) + " k"
	}
	return digits(v)
}

// digits are three that count.
func digits(v float64) string {
	text := fmt.Sprintf("%.*f", max(0, 2-int(math.Floor(math.Log10(max(math.Abs(v), 0.01))))), v)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}
