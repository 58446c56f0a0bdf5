package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"tokenalert/worker"
)

// view draws for people: in colour on a terminal that has them, and in plain
// characters elsewhere (NO_COLOR, TERM=dumb, a pipe).
type view struct {
	ascii bool // no characters but those of ASCII
	plain bool // no colours

	faint, bold     lipgloss.Style
	good, bad       lipgloss.Style
	levels          [4]lipgloss.Style // a bar, from far below the limit to at it
	track, boundary lipgloss.Style    // of a bar: what is empty, and where a threshold is
}

// out is where it is to be written.
func newView(out io.Writer) view {
	r := lipgloss.NewRenderer(out)
	style := func(colour string) lipgloss.Style { return r.NewStyle().Foreground(lipgloss.Color(colour)) }
	track := r.NewStyle().Background(lipgloss.Color("236"))
	return view{
		ascii:    os.Getenv("TERM") == "dumb",
		plain:    r.ColorProfile().Name() == "Ascii",
		faint:    style("245"),
		bold:     r.NewStyle().Bold(true),
		good:     style("35"),
		bad:      style("203").Bold(true),
		levels:   [4]lipgloss.Style{style("35"), style("220"), style("208"), style("203")},
		track:    track,
		boundary: track.Foreground(lipgloss.Color("245")),
	}
}

// level is how near to the limit somebody stands: 0 below all thresholds, 3 at
// or above the last.
func level(used, limit int64, thresholds []int32) int {
	reached := 0
	for _, t := range thresholds {
		if worker.PercentTenths(used, limit) >= int64(t)*10 {
			reached++
		}
	}
	switch {
	case reached == 0:
		return 0
	case reached == len(thresholds):
		return 3
	case reached == 1:
		return 1
	}
	return 2
}

// bar draws used against limit, with the thresholds on the part that is empty.
func (v view) bar(width int, used, limit int64, thresholds []int32) string {
	full := float64(limit)
	for _, t := range thresholds { // thresholds above 100 % belong on it as well
		full = max(full, float64(limit)*float64(t)/100)
	}
	eighths := int(min(max(float64(used)/full, 0), 1) * float64(width) * 8)
	style := v.levels[level(used, limit, thresholds)]
	marks := map[int]bool{}
	for _, t := range thresholds {
		if cell := int(float64(limit) * float64(t) / 100 / full * float64(width)); cell < width {
			marks[cell] = true
		}
	}
	filled, partial := eighths/8, eighths%8
	if v.ascii {
		partial = 0
	}
	var b strings.Builder
	b.WriteString(style.Render(strings.Repeat(v.char("█", "#"), filled)))
	for cell := filled; cell < width; cell++ {
		switch {
		case cell == filled && partial > 0:
			b.WriteString(style.Background(v.track.GetBackground()).Render(string([]rune("▏▎▍▌▋▊▉")[partial-1])))
		case marks[cell]:
			b.WriteString(v.boundary.Render(v.char("│", "|")))
		case v.plain:
			b.WriteString(v.char("·", "."))
		default:
			b.WriteString(v.track.Render(" "))
		}
	}
	return b.String()
}

func (v view) char(unicode, ascii string) string {
	if v.ascii {
		return ascii
	}
	return unicode
}

// percentUsed is cut after one decimal, so that 100.0 % means reached.
func percentUsed(used, limit int64) string {
	tenths := worker.PercentTenths(used, limit)
	return fmt.Sprintf("%d.%d %%", tenths/10, tenths%10)
}

// standing is one user's line, width cells wide.
func (v view) standing(width, nameWidth int, name string, used, limit int64, thresholds []int32, note string) string {
	percent := percentUsed(used, limit)
	const percentWidth, tokensWidth = 9, 22
	tokens := fmt.Sprintf("%*s", tokensWidth, number(used)+" of "+number(limit))
	if width < 76 { // what the bar and the percentage say as well
		tokens = ""
	}
	barWidth := width - nameWidth - percentWidth - len(tokens) - 5 - ansi.StringWidth(note)
	return fmt.Sprintf("  %s %s%s%s  %s", pad(name, nameWidth), v.bar(max(barWidth, 10), used, limit, thresholds),
		v.levels[level(used, limit, thresholds)].Render(fmt.Sprintf("%*s", percentWidth, percent)), tokens, note)
}

// pad makes s exactly width cells wide, whatever is in it.
func pad(s string, width int) string {
	s = ansi.Truncate(plain(s), width, "…")
	return s + strings.Repeat(" ", max(0, width-ansi.StringWidth(s)))
}

// number writes 104912 as 104,912.
func number(n int64) string { return message.NewPrinter(language.English).Sprintf("%d", n) }

// span writes a duration as people say it.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// instant writes a time as people read it, in UTC.
func instant(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func count(n int64, of string) string {
	if n == 1 {
		return "1 " + of
	}
	if stem, found := strings.CutSuffix(of, "y"); found { // of a consonant and y
		return number(n) + " " + stem + "ies"
	}
	return number(n) + " " + of + "s"
}
