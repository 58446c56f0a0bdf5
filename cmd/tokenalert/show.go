package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/charmbracelet/x/ansi"

	"tokenalert/internal/demo"
	"tokenalert/store"
)

// show is what a demo shows: lines, and on a terminal, while the users work, a
// live view in their place.
type show struct {
	out  io.Writer
	live *os.File // the terminal of the live view; nil: lines
	demo demonstration

	mu        sync.Mutex
	on        bool // the live view has the terminal; lines wait in said
	said      []string
	alerts    []alert
	told      int
	latencies []float64 // milliseconds
}

// alert is one line of the worker's log.
type alert struct {
	at          time.Time
	name        string
	threshold   int
	used, limit int64
	percent     float64
	reason      string   // empty: told
	latency     *float64 // milliseconds
}

func newShow(out io.Writer, d demonstration) *show {
	s := &show{out: out, demo: d}
	if !d.lines {
		s.live = pageOn(out)
	}
	return s
}

// say writes a line, or keeps it until the terminal is free.
func (s *show) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line(fmt.Sprintf(format, args...))
}

func (s *show) line(text string) {
	if s.on {
		s.said = append(s.said, text)
		return
	}
	_, _ = fmt.Fprintln(s.out, text)
}

// alert shows what the worker has written about one threshold.
func (s *show) alert(a alert) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alerts = append(s.alerts, a)
	if a.reason == "" {
		s.told++
	}
	if a.reason == "" && a.latency != nil {
		s.latencies = append(s.latencies, *a.latency)
	}
	if s.live == nil {
		s.line(a.line())
	}
}

func (a alert) line() string {
	if a.reason != "" {
		return fmt.Sprintf("  %3d %%  %-12s recorded, not told: %s", a.threshold, a.name, a.reason)
	}
	after := ""
	if a.latency != nil {
		after = fmt.Sprintf("   %.1f ms after the commit", *a.latency)
	}
	return fmt.Sprintf("  %3d %%  %-12s told: %d of %d tokens (%.1f %%)%s", a.threshold, a.name, a.used, a.limit, a.percent, after)
}

// summarize says how fast it was.
func (s *show) summarize() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.quantiles(); at != nil {
		s.line(fmt.Sprintf("commit to alert, %d told: p50 %.1f ms, p99 %.1f ms, maximum %.1f ms", len(s.latencies), at(0.5), at(0.99), at(1)))
	}
}

// quantiles returns what tells a quantile of the latencies in milliseconds, nil
// where there are none.
func (s *show) quantiles() func(float64) float64 {
	if len(s.latencies) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(s.latencies))
	return func(q float64) float64 { return sorted[int(q*float64(len(sorted)-1)+0.5)] }
}

// during shows what happens while traffic goes on, until it ends or somebody
// ends it.
func (s *show) during(ctx context.Context, worker settings, platform *demo.Platform, traffic func(context.Context) (int64, error)) (int64, error) {
	if s.live == nil {
		return traffic(ctx)
	}
	database, err := store.OpenFor("demo", worker.databaseURL, "")
	if err != nil {
		return 0, err
	}
	defer database.Close()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var calls int64
	var trafficErr error
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		defer stop()
		calls, trafficErr = traffic(watching)
	}()
	looked := newLatest(store.Status{})
	looking := make(chan struct{})
	go func() {
		defer close(looking)
		for wait(watching, 100*time.Millisecond) {
			looked.set(database.Status(watching, len(platform.Users)))
		}
	}()

	s.occupy(true)
	began, v := time.Now(), newView(s.out)
	page := func(width, height int) []string {
		status, _ := looked.get() // the next look comes soon
		return s.page(v, status, platform, time.Since(began), width, height)
	}
	err = screen{every: time.Second / 10, draw: page}.run(watching, s.live)
	s.occupy(false)
	stop()
	<-finished
	<-looking
	// The last page stays, for whoever looked away.
	final, lookErr := database.Status(context.WithoutCancel(ctx), len(platform.Users))
	if err == nil && trafficErr == nil && lookErr == nil {
		for _, l := range s.page(v, final, platform, time.Since(began), widthOf(s.out), 40) {
			_, _ = fmt.Fprintln(s.out, ansi.Truncate(l, widthOf(s.out), ""))
		}
	}
	return calls, firstError(trafficErr, err)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// occupy gives the terminal to the live view, or takes it back and writes what
// was said meanwhile.
func (s *show) occupy(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.on = on; !on {
		for _, text := range s.said {
			s.line(text)
		}
		s.said = nil
	}
}

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
