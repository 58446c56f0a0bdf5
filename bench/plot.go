package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// A chart is bars in groups, each with its spread: the bar ends at the median,
// a line goes from the minimum to the maximum.
type chart struct {
	cell, title string
	logarithmic bool
	line        float64 // where a line is drawn across; 0: nowhere
	groups      []group
}

type group struct {
	name string
	bars []bar
}

type bar struct {
	label string
	spread
	text string
}

// charts are the pictures of a run, one for each cell that was played.
func (r *results) charts() []chart {
	var all []chart
	if len(r.Cost) > 0 {
		c := chart{cell: cellCost, title: "Rows inserted, compared with no trigger", line: 1}
		for _, key := range r.costKeys() {
			g := group{name: fmt.Sprintf("%s, %s, clients: %d", historyName(key.history), key.commit, key.clients)}
			for _, e := range played(r.Cost, costPlay.competitor) {
				f := r.costFigure(key, e.key)
				g.bars = append(g.bars, bar{e.label, f.ratio, f.ratio.show(ratio)})
			}
			c.groups = append(c.groups, g)
		}
		all = append(all, c)
	}
	if len(r.Latency) > 0 {
		c := chart{cell: cellLatency, title: "From the commit to the alert, milliseconds, logarithmic", logarithmic: true}
		for _, rate := range r.rates() {
			for _, q := range []float64{0.5, 0.99} {
				g := group{name: fmt.Sprintf("%s, p%.0f", rateName(rate), 100*q)}
				for _, e := range played(r.Latency, latencyPlay.competitor) {
					s := r.latencyFigure(rate, e.key, q)
					g.bars = append(g.bars, bar{e.label, s, s.show(tenths)})
				}
				c.groups = append(c.groups, g)
			}
		}
		all = append(all, c)
	}
	if len(r.CatchUp) > 0 {
		c := chart{cell: cellCatchUp, title: "Rows counted a second while catching up"}
		for _, b := range r.backlogs() {
			g := group{name: b.String()}
			for _, e := range played(r.CatchUp, catchUpPlay.competitor) {
				if f := r.catchUpFigure(b, e.key); f.lost {
					g.bars = append(g.bars, bar{label: e.label, text: "loses"})
				} else {
					g.bars = append(g.bars, bar{e.label, f.rate, f.rate.show(thousands)})
				}
			}
			c.groups = append(c.groups, g)
		}
		all = append(all, c)
	}
	if len(r.Growth) > 0 {
		c := chart{cell: cellGrowth, title: "Duration of a tick, milliseconds, logarithmic", logarithmic: true}
		for _, d := range r.Form.Growth.dimensions() {
			g := group{name: d.name}
			for _, s := range d.settings {
				f := r.growthFigure(s, d.base)
				g.bars = append(g.bars, bar{"**" + thousands(float64(d.value(s))) + "**", f.ms, f.ms.show(hundredths)})
			}
			c.groups = append(c.groups, g)
		}
		all = append(all, c)
	}
	return all
}

// Sizes, in pixels.
const (
	plotLeft, plotWidth, plotRight = 190, 480, 220
	plotTop, barHeight, groupGap   = 40, 18, 32
)

func (c chart) svg() string {
	low, high := math.Inf(1), c.line
	height := plotTop
	for _, g := range c.groups {
		height += groupGap + len(g.bars)*barHeight
		for _, b := range g.bars {
			if b.Min > 0 { // which no number is not
				low = min(low, b.Min)
			}
			if b.Max > 0 {
				high = max(high, b.Max)
			}
		}
	}
	at := func(v float64) float64 {
		switch {
		case math.IsNaN(v) || v <= 0 || high <= 0:
			return 0
		case c.logarithmic:
			from := math.Log10(low) - 0.3
			return plotWidth * (math.Log10(v) - from) / (math.Log10(high) - from)
		}
		return plotWidth * v / high
	}
	var s strings.Builder
	_, _ = fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n",
		plotLeft+plotWidth+plotRight, height+20)
	_, _ = fmt.Fprintf(&s, `<rect width="100%%" height="100%%" fill="white"/>`+"\n"+`<text x="10" y="22" font-size="15" font-weight="bold">%s</text>`+"\n", html.EscapeString(c.title))
	y := plotTop
	for _, g := range c.groups {
		_, _ = fmt.Fprintf(&s, `<text x="10" y="%d" font-weight="bold">%s</text>`+"\n", y+20, html.EscapeString(g.name))
		y += groupGap - 4
		for _, b := range g.bars {
			b.draw(&s, y, at)
			y += barHeight
		}
		y += 4
	}
	if c.line > 0 {
		x := plotLeft + at(c.line)
		_, _ = fmt.Fprintf(&s, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#737373" stroke-dasharray="3 3"/>`+"\n", x, plotTop, x, y)
	}
	s.WriteString("</svg>\n")
	return s.String()
}

func (b bar) draw(s *strings.Builder, y int, at func(float64) float64) {
	label := strings.ReplaceAll(b.label, "**", "")
	colour := "#a3a3a3"
	if label != b.label { // ours
		colour = "#2563eb"
	}
	middle := y + barHeight/2
	_, _ = fmt.Fprintf(s, `<text x="%d" y="%d" text-anchor="end">%s</text>`, plotLeft-8, middle+4, html.EscapeString(label))
	_, _ = fmt.Fprintf(s, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, plotLeft, y+2, at(b.Median), barHeight-4, colour)
	_, _ = fmt.Fprintf(s, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="black"/>`, plotLeft+at(b.Min), middle, plotLeft+at(b.Max), middle)
	_, _ = fmt.Fprintf(s, `<text x="%.1f" y="%d">%s</text>`+"\n", plotLeft+at(b.Max)+6, middle+4, html.EscapeString(b.text))
}
