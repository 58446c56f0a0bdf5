package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
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
