package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"tokenalert/internal/demo"
	"tokenalert/store"
)

// page draws: the users as bars, the alerts as they fire, totals, the worker.
func (s *show) page(v view, st store.Status, platform *demo.Platform, gone time.Duration, width, height int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	width = min(width, 110)
	lines := []string{s.title(v, gone, width), ""}
	footer := append([]string{""}, s.totals(v, st, platform)...)
	footer = append(footer, v.worker(st)[:4]...)
	footer = append(footer, "", v.faint.Render("  q ends it   (a private PostgreSQL, the host's own insert function, the worker of tokenalert run)"))

	// What is left of the height goes to users first, but not all of it.
	room := height - len(lines) - len(footer)
	rows := min(len(platform.Users), max(room-5, room*2/3, 1))
	lines = append(lines, s.bars(v, st, platform, rows, width)...)
	if feed := height - len(lines) - len(footer) - 2; feed > 0 {
		lines = append(lines, "", "  "+v.bold.Render("Alerts"))
		lines = append(lines, s.feed(v, feed)...)
	}
	return append(lines, footer...)
}

func (s *show) title(v view, gone time.Duration, width int) string {
	gone = min(gone, s.demo.duration)
	left := "  " + v.bold.Render("tokenalert") + v.faint.Render(" tells users once, at once, when their tokens reach a threshold")
	right := fmt.Sprintf("%.0f of %.0f s", gone.Seconds(), s.demo.duration.Seconds())
	if ansi.StringWidth(left)+len(right) >= width {
		left = "  " + v.bold.Render("tokenalert")
	}
	return left + strings.Repeat(" ", max(1, width-ansi.StringWidth(left)-len(right))) + v.faint.Render(right)
}

// bars draws the users in their order, in as many lines as there are rows.
func (s *show) bars(v view, st store.Status, platform *demo.Platform, rows, width int) []string {
	used := map[string]int64{}
	for _, u := range st.Users {
		used[u.FullName] = u.TokensUsed
	}
	thresholds := []int32{}
	if st.Settings != nil {
		thresholds = st.Settings.Thresholds
	}
	highest := map[string]int{}
	for _, a := range s.alerts {
		if a.reason == "" {
			highest[a.name] = max(highest[a.name], a.threshold)
		}
		used[a.name] = max(used[a.name], a.used) // the alert may be newer than the last look
	}
	var lines []string
	drawn, more := platform.Users[:rows], len(platform.Users)-rows
	if more > 0 && rows > 1 {
		drawn, more = drawn[:rows-1], more+1
	}
	for _, id := range drawn {
		name, note := platform.Names[id], ""
		if t := highest[name]; t > 0 {
			note = fmt.Sprintf("told %3d %%", t)
		}
		lines = append(lines, v.standing(width, 12, name, used[name], demo.Limit, thresholds, fmt.Sprintf("%-10s", note)))
	}
	if more > 0 {
		lines = append(lines, v.faint.Render(fmt.Sprintf("  and %d more", more)))
	}
	return lines
}

// feed is the newest alerts, the newest first.
func (s *show) feed(v view, rows int) []string {
	var lines []string
	for i := len(s.alerts) - 1; i >= 0 && len(lines) < rows; i-- {
		a := s.alerts[i]
		style := v.levels[level(int64(a.threshold), 100, []int32{80, 90, 100})]
		what := style.Render(fmt.Sprintf("%3d %%", a.threshold)) + "  " + pad(a.name, 12)
		switch {
		case a.reason != "":
			what += v.faint.Render(" recorded, not told: " + a.reason)
		case a.latency != nil:
			what += fmt.Sprintf(" told %s after the commit", v.bold.Render(fmt.Sprintf("%5.1f ms", *a.latency)))
		default:
			what += " told"
		}
		lines = append(lines, "  "+v.faint.Render(a.at.UTC().Format("15:04:05.000"))+"  "+what)
	}
	for len(lines) < rows {
		lines = append(lines, "")
	}
	return lines
}

func (s *show) totals(v view, st store.Status, platform *demo.Platform) []string {
	tokens := int64(0)
	for _, u := range st.Users {
		tokens += u.TokensUsed
	}
	totals := fmt.Sprintf("%s calls, %s tokens counted, %s", number(platform.Calls()), number(tokens), v.bold.Render(number(int64(s.told))+" told"))
	speed := "nobody told yet"
	if at := s.quantiles(); at != nil {
		speed = fmt.Sprintf("p50 %.1f ms, p99 %.1f ms", at(0.5), at(0.99))
	}
	return []string{v.field("totals", totals), v.field("to alert", speed)}
}
