package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/charmbracelet/lipgloss"

	"tokenalert/store"
	"tokenalert/worker"
)

// sheet is text in sections with aligned columns. Whatever comes from the
// database is written without control characters: the only ones are those of
// our own colours.
type sheet struct {
	text  strings.Builder
	bold  lipgloss.Style
	faint lipgloss.Style
	state map[worker.ThresholdState]lipgloss.Style
}

func newSheet(w io.Writer) *sheet {
	r := lipgloss.NewRenderer(w)
	colour := func(c string) lipgloss.Style { return r.NewStyle().Foreground(lipgloss.Color(c)) }
	return &sheet{
		bold: r.NewStyle().Bold(true), faint: r.NewStyle().Faint(true),
		state: map[worker.ThresholdState]lipgloss.Style{
			worker.StateTold: colour("2"), worker.StateRecorded: colour("3"), worker.StateMarked: colour("3"),
			worker.StateUndecided: colour("1"), worker.StateUncounted: colour("1"), worker.StateNotReached: r.NewStyle(),
		},
	}
}

// print writes the answer, then what it follows from.
func (e explanation) print(w io.Writer) error {
	s, a := newSheet(w), e.Account
	s.text.WriteString(s.bold.Render(plain(e.Answer)) + "\n")
	s.section("User", e.user(), nil)
	s.thresholds("Thresholds", e.Current)
	s.thresholds("Thresholds in the previous period", e.Previous)
	s.table("Alerts", []string{"written", "period", "threshold", "used", "limit", "tick", "outcome"}, alertRows(a.Alerts))
	var usage, notes [][]string
	for _, r := range a.Newest {
		usage = append(usage, []string{instant(r.CreatedAt), number(r.TokensUsed), orNone(r.XactID), worker.CountedBy(a, r)})
	}
	s.table("Newest usage", []string{"created", "tokens", "transaction", "counted by"}, usage)
	for _, n := range e.Notes {
		notes = append(notes, []string{n})
	}
	s.section("Notes", notes, nil)
	_, err := io.WriteString(w, s.text.String())
	return err
}

// user is what is known of the user and the current period.
func (e explanation) user() [][]string {
	a := e.Account
	rows := [][]string{{"id", a.UserID.String()}, {"name", a.FullName}}
	if a.OrganizationID != nil {
		rows = append(rows, []string{"organization", a.OrganizationID.String()})
	}
	limit := "none"
	if a.TokenLimit != nil && *a.TokenLimit > 0 {
		limit = number(*a.TokenLimit) + " tokens"
	}
	rows = append(rows, []string{"limit", fmt.Sprintf("%s (%s), renewed on day %d", limit, a.LimitIn, a.ResetDay)})
	if a.Settings != nil && a.Current != nil {
		counted := "nothing counted"
		if a.Current.TickID != nil {
			counted = fmt.Sprintf("last changed by tick %d", *a.Current.TickID)
		}
		used := number(a.Current.TokensUsed) + " tokens"
		if a.TokenLimit != nil && *a.TokenLimit > 0 {
			used += ", " + percentUsed(a.Current.TokensUsed, *a.TokenLimit)
		}
		rows = append(rows,
			[]string{"period", instant(a.Current.Start) + " to " + instant(a.Current.End) + ", zone " + a.Zone()},
			[]string{"used", used + ", " + counted},
		)
		if a.Current.RowsAddUpTo != nil {
			rows = append(rows, []string{"rows", "add up to " + number(*a.Current.RowsAddUpTo) + " tokens, as far as counted"})
		}
		if a.Previous.TickID != nil {
			rows = append(rows, []string{"before", fmt.Sprintf("%s tokens, from %s", number(a.Previous.TokensUsed), instant(a.Previous.Start))})
		}
		rows = append(rows,
			[]string{"marks", percents(a.Current.Marks)},
			[]string{"in force", percents(a.Thresholds()) + thresholdsOrigin(a)},
		)
	}
	if a.LastTick != nil {
		rows = append(rows, []string{"last tick", fmt.Sprintf("%d, on %s, by %s", a.LastTick.ID, instant(a.LastTick.StartedAt), a.LastTick.Worker)})
	}
	if a.Leader != nil {
		leader := a.Leader.Worker
		if a.Leader.Since != nil {
			leader += ", since " + instant(*a.Leader.Since)
		}
		rows = append(rows, []string{"leader", strings.TrimPrefix(leader, ", ")})
	}
	return append(rows, []string{"as of", instant(a.Now)})
}

// thresholds writes what became of each, its state in colour.
func (s *sheet) thresholds(title string, verdicts []worker.ThresholdVerdict) {
	var rows [][]string
	for _, v := range verdicts {
		state := strings.ReplaceAll(string(v.State), "_", " ")
		sentence := strings.TrimLeft(strings.TrimPrefix(v.Sentence, state), " :") // which begins with it, most often
		rows = append(rows, []string{fmt.Sprintf("%3d %%", v.Threshold), state, sentence})
	}
	s.section(title, rows, func(row, column int) lipgloss.Style {
		if column == 1 {
			return s.state[verdicts[row].State]
		}
		return lipgloss.Style{}
	})
}

func alertRows(alerts []store.AccountAlert) [][]string {
	var rows [][]string
	for _, al := range alerts {
		outcome, written := "told", al.SentAt
		if !al.Sent {
			outcome, written = al.Reason, al.CreatedAt
		}
		switch {
		case al.PeriodStart == nil:
			outcome = strings.TrimSpace(outcome + " by the host")
		case al.NotificationID != nil:
			outcome += ", notification " + al.NotificationID.String()
		}
		row := []string{none, none, fmt.Sprintf("%d %%", al.Threshold), none, none, none, outcome}
		if written != nil {
			row[0] = instant(*written)
		}
		if al.PeriodStart != nil {
			row[1] = al.PeriodStart.UTC().Format(time.DateOnly)
		}
		for i, n := range map[int]*int64{3: al.TokensUsed, 4: al.TokenLimit} {
			if n != nil {
				row[i] = number(*n)
			}
		}
		if al.TickID != nil {
			row[5] = strconv.FormatInt(*al.TickID, 10)
		}
		rows = append(rows, row)
	}
	return rows
}

// table is a section with names above its columns.
func (s *sheet) table(title string, names []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	s.section(title, append([][]string{names}, rows...), func(row, _ int) lipgloss.Style {
		if row == 0 {
			return s.faint
		}
		return lipgloss.Style{}
	})
}

// section writes rows, where there are any, with their columns aligned by what
// they take on screen. paint, which may be nil, is the style of a cell.
func (s *sheet) section(title string, rows [][]string, paint func(row, column int) lipgloss.Style) {
	if len(rows) == 0 {
		return
	}
	s.text.WriteString("\n" + s.bold.Render(title) + "\n")
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], lipgloss.Width(plain(cell)))
		}
	}
	for n, row := range rows {
		for i, cell := range row {
			cell = plain(cell)
			padding := strings.Repeat(" ", widths[i]-lipgloss.Width(cell))
			if i == len(row)-1 {
				padding = ""
			}
			if paint != nil {
				cell = paint(n, i).Render(cell)
			}
			s.text.WriteString("  " + cell + padding)
		}
		s.text.WriteString("\n")
	}
}

// none stands where there is nothing to say.
const none = "-"

func orNone(s *string) string {
	if s == nil {
		return none
	}
	return *s
}

// plain leaves out control characters, and those that turn the direction of a
// text.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, text)
}

// plainLines is plain for each line of a text.
func plainLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = plain(lines[i])
	}
	return strings.Join(lines, "\n")
}

func percents(n []int32) string {
	if len(n) == 0 {
		return "none"
	}
	var list []string
	for _, p := range n {
		list = append(list, strconv.Itoa(int(p))+" %")
	}
	return strings.Join(list, ", ")
}

// thresholdsOrigin says where a user's thresholds come from.
func thresholdsOrigin(a store.Account) string {
	p := a.Policy.Saying(func(p *store.Policy) bool { return p.Thresholds != nil })
	switch {
	case p == nil:
		return ", since " + instant(a.Settings.ChangedAt)
	case p.UserID != nil:
		return ", by the user's policy since " + instant(p.ChangedAt)
	}
	return ", by the organization's policy since " + instant(p.ChangedAt)
}
