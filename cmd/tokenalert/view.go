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

	"tokenalert/store"
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

// standing is one user's line, width cells wide.
func (v view) standing(width, nameWidth int, name string, used, limit int64, thresholds []int32, note string) string {
	percent := fmt.Sprintf("%.1f %%", float64(worker.PercentTenths(used, limit))/10)
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

func (v view) field(name, value string) string {
	return "  " + v.faint.Render(fmt.Sprintf("%-12s", name)) + value
}

// worker describes who leads and what they do.
func (v view) worker(st store.Status) []string {
	return []string{
		v.field("leader", v.leader(st)),
		v.field("last tick", v.lastTick(st)),
		v.field("lag", v.lag(st)),
		v.field("bell", v.bell(st)),
		v.field("corrections", v.corrections(st)),
	}
}

func (v view) leader(st store.Status) string {
	waiting := ""
	if st.Waiting > 0 {
		waiting = fmt.Sprintf("; %d waiting to take over", st.Waiting)
	}
	switch l := st.Leader; {
	case l == nil:
		return v.bad.Render("nobody leads") + ": nobody is told; start `tokenalert run`" + waiting
	case l.Since == nil:
		return fmt.Sprintf("session %d%s", l.PID, waiting)
	default:
		return v.good.Render(l.Worker) + fmt.Sprintf(" since %s (%s)%s", instant(*l.Since), span(st.Now.Sub(*l.Since)), waiting)
	}
}

func (v view) lastTick(st store.Status) string {
	t := st.LastTick
	if t == nil {
		return "none: nothing was ever counted"
	}
	return fmt.Sprintf("#%d, %s ago: %s, %s", t.ID, span(st.Now.Sub(t.StartedAt)), count(t.Rows, "row"), count(t.Users, "user"))
}

func (v view) lag(st store.Status) string {
	u := st.Uncounted
	switch {
	case st.LastTick == nil:
		return "all of the table is to be counted"
	case u.Rows == 0:
		return v.good.Render("nothing uncounted")
	}
	lag := count(u.Rows, "row") + " uncounted"
	if u.Rows == store.UncountedMost {
		lag = number(u.Rows) + " or more rows uncounted"
	}
	if u.Oldest == nil {
		return lag
	}
	behind := st.Now.Sub(*u.Oldest)
	lag += ", the oldest logged " + span(behind) + " ago"
	if behind > time.Minute {
		return v.bad.Render(lag)
	}
	return lag
}

func (v view) bell(st store.Status) string {
	b := st.Bell
	switch {
	case b.Muted:
		return "muted, as max_prepared_transactions is above 0: the worker polls"
	case b.Armed:
		return "armed: the next insert rings (until " + b.ArmedUntil.UTC().Format("15:04:05") + " unless renewed)"
	case st.Leader == nil:
		return "silent"
	}
	return "silent: the worker is awake"
}

func (v view) corrections(st store.Status) string {
	c := st.Corrections
	var parts []string
	if c.Due > 0 {
		due := number(c.Due) + " pending"
		if c.Oldest != nil {
			due += ", the oldest for " + span(st.Now.Sub(*c.Oldest))
		}
		parts = append(parts, due)
	}
	if c.Later > 0 {
		parts = append(parts, number(c.Later)+" for later")
	}
	if c.SetAside > 0 {
		parts = append(parts, v.bad.Render(count(c.SetAside, "user")+" set aside"))
	}
	if parts == nil {
		return "none pending"
	}
	return strings.Join(parts, "; ")
}

func count(n int64, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return number(n) + " " + of + "s"
}

// alerts is a table of this period's alerts, a line for each threshold.
func (v view) alerts(st store.Status) []string {
	if len(st.Alerts) == 0 {
		return []string{"  none"}
	}
	var lines []string
	var threshold int32
	for _, a := range st.Alerts {
		what := v.bold.Render(number(a.Count) + " told")
		if a.Reason != "" {
			what = fmt.Sprintf("%s recorded, not told: %s", number(a.Count), a.Reason)
		}
		if len(lines) == 0 || a.Threshold != threshold {
			threshold = a.Threshold
			lines = append(lines, fmt.Sprintf("  %4d %%      %s", threshold, what))
		} else {
			lines[len(lines)-1] += "; " + what
		}
	}
	return lines
}

// users draws a bar for each.
func (v view) users(st store.Status, width int) []string {
	var thresholds []int32
	if st.Settings != nil {
		thresholds = st.Settings.Thresholds
	}
	if len(st.Users) == 0 {
		if st.Limited == 0 {
			return []string{"  nobody has a limit, so nobody is told"}
		}
		return []string{"  nobody with a limit has used anything in this period"}
	}
	nameWidth := 8
	for _, u := range st.Users {
		nameWidth = min(max(nameWidth, ansi.StringWidth(u.FullName)), 24)
	}
	ids := width >= 130
	var lines []string
	for _, u := range st.Users {
		note := "  resets " + u.PeriodEnd.UTC().Format("2 Jan")
		note = fmt.Sprintf("%-15s", note)
		if ids {
			note += " " + u.UserID.String()
		}
		lines = append(lines, v.standing(width, nameWidth, u.FullName, u.TokensUsed, u.TokenLimit, thresholds, note))
	}
	return lines
}
