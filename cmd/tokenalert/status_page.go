package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"tokenalert/store"
)

// status is the whole page.
func (v view) status(st store.Status, width int) []string {
	lines := []string{
		v.bold.Render(plain(st.Database)) + fmt.Sprintf(", PostgreSQL %d, %s", st.ServerVersion/10000, instant(st.Now)),
		"",
	}
	lines = append(lines, v.worker(st)...)
	lines = append(lines, "", fmt.Sprintf("%s of %s with a limit:", v.bold.Render("Nearest to their limits"), count(int64(st.Limited), "user")))
	lines = append(lines, v.users(st, width)...)
	lines = append(lines, "", v.bold.Render("Alerts of this period")+":")
	return append(lines, v.alerts(st)...)
}

func (v view) field(name, value string) string {
	return "  " + v.faint.Render(fmt.Sprintf("%-12s", name)) + value
}

// worker describes who leads and what they do.
func (v view) worker(st store.Status) []string {
	lines := []string{
		v.field("leader", v.leader(st)),
		v.field("last tick", v.lastTick(st)),
		v.field("lag", v.lag(st)),
		v.field("bell", v.bell(st)),
		v.field("corrections", v.corrections(st)),
	}
	if deliveries := v.deliveries(st); deliveries != "" {
		lines = append(lines, v.field("deliveries", deliveries))
	}
	return lines
}

func (v view) leader(st store.Status) string {
	waiting := ""
	if st.Waiting > 0 {
		waiting = fmt.Sprintf("; %d waiting to take over", st.Waiting)
	}
	switch l := st.Leader; {
	case l == nil && st.Standby:
		return "not to be seen on a standby"
	case l == nil:
		return v.bad.Render("nobody leads") + ": nobody is told; start `tokenalert run`" + waiting
	case l.Since == nil:
		return fmt.Sprintf("session %d%s", l.PID, waiting)
	default:
		return v.good.Render(plain(l.Worker)) + fmt.Sprintf(" since %s (%s)%s", instant(*l.Since), span(st.Now.Sub(*l.Since)), waiting)
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
	if c.BudgetsSetAside > 0 {
		parts = append(parts, v.bad.Render(count(c.BudgetsSetAside, "budget")+" set aside"))
	}
	if parts == nil {
		return "none pending"
	}
	return strings.Join(parts, "; ")
}

// deliveries is empty where none is on its way and none failed.
func (v view) deliveries(st store.Status) string {
	d := st.Deliveries
	var parts []string
	if d.Waiting > 0 {
		parts = append(parts, number(d.Waiting)+" waiting")
	}
	if d.Retrying > 0 {
		parts = append(parts, v.bad.Render(number(d.Retrying)+" retrying"))
	}
	if parts != nil && d.Oldest != nil {
		parts = append(parts, "the oldest for "+span(max(st.Now.Sub(*d.Oldest), 0)))
	}
	if d.Failed > 0 {
		parts = append(parts, v.bad.Render(number(d.Failed)+" failed")+" in the last day")
	}
	return strings.Join(parts, ", ")
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
			what = fmt.Sprintf("%s recorded, not told: %s", number(a.Count), plain(a.Reason))
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
