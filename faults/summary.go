package main

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"tokenalert/faults/lane"
	"tokenalert/faults/oracle"
	"tokenalert/faults/plan"
	"tokenalert/internal/page"
)

// A summary is what came of a run.
type summary struct {
	counted, small, wrong                int
	missed, doubled, totals, wrongAlerts int
	rows, expected, possible, told       int
	delivering, due, received, repeated  int // schedules, and deliveries
	wrongDeliveries                      int
	budgeted                             int // schedules
	budgets                              oracle.BudgetCounts
	spoilt                               map[plan.FaultKind]lane.Landing
	landed                               map[plan.FaultKind]lane.Landing
	kinds                                []plan.FaultKind
	events                               map[string]int
	settled, took                        []time.Duration
	first, last                          uint64
	version                              int
}

func (l *laboratory) summary() *summary {
	s := &summary{landed: map[plan.FaultKind]lane.Landing{}, spoilt: map[plan.FaultKind]lane.Landing{}, events: map[string]int{}, kinds: l.kinds}
	results := slices.SortedFunc(slices.Values(l.results), func(a, b *lane.Result) int { return cmp.Compare(a.Seed, b.Seed) })
	for _, r := range results {
		if r.TooSmall != "" && r.OK() {
			s.small++
			continue
		}
		if s.counted == 0 {
			s.first = r.Seed
		}
		s.last = r.Seed
		s.version = max(s.version, r.Server)
		s.counted++
		if !r.OK() {
			s.wrong++
		}
		s.missed, s.doubled, s.totals, s.wrongAlerts = s.missed+r.Missed, s.doubled+r.Doubled, s.totals+r.Totals, s.wrongAlerts+r.Wrong
		s.rows, s.expected, s.possible, s.told = s.rows+r.Rows, s.expected+r.Expected, s.possible+r.Possible, s.told+r.Told
		for kind, landing := range r.Landed {
			sum := s.landed[kind]
			s.landed[kind] = lane.Landing{All: sum.All + landing.All, Open: sum.Open + landing.Open}
		}
		if r.Deliveries > 0 {
			s.delivering++
		}
		s.due, s.received, s.repeated, s.wrongDeliveries = s.due+r.Deliveries, s.received+r.Received, s.repeated+r.Repeated, s.wrongDeliveries+r.WrongDeliveries
		if b := r.Budgets; b.InForce > 0 {
			s.budgeted++
			s.budgets = oracle.BudgetCounts{
				InForce: s.budgets.InForce + b.InForce, Expected: s.budgets.Expected + b.Expected, Possible: s.budgets.Possible + b.Possible,
				Told: s.budgets.Told + b.Told, Notices: s.budgets.Notices + b.Notices,
			}
		}
		for kind, landing := range r.Spoilt {
			sum := s.spoilt[kind]
			s.spoilt[kind] = lane.Landing{All: sum.All + landing.All, Open: sum.Open + landing.Open}
		}
		for event, n := range r.Events {
			s.events[event] += n
		}
		s.settled, s.took = append(s.settled, r.Settled), append(s.took, r.Took)
	}
	slices.Sort(s.settled)
	slices.Sort(s.took)
	return s
}

// interesting are the events of the workers' logs that the summary counts.
var interesting = []string{
	"leader.acquired", "leader.lost", "leader.released", "tick.collided", "tick.failed", "tick.rewritten", "tick.full", "tick.bounded",
	"recount.done", "recount.deferred", "bell.armed", "database.refused", "database.unreachable", "listener.reconnecting", "user.set_aside",
	"budget.begun", "budget.sent", "budget.suppressed",
	"delivery.completed", "delivery.retried", "delivery.failed", "delivery.queue",
}

func (s *summary) text() string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "PostgreSQL %d.%d, %s %s/%s, %d cores, %s\n\n", s.version/10000, s.version%10000,
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), time.Now().UTC().Format(time.DateOnly))
	_, _ = fmt.Fprintf(&b, "%s schedules (seeds %d to %d, %d more were too small to count): %d missed, %d doubled, %d wrong totals, %d wrong alerts\n",
		thousands(s.counted), s.first, s.last, s.small, s.missed, s.doubled, s.totals, s.wrongAlerts)
	share := 0.0
	if s.expected > 0 {
		share = 100 * float64(s.possible) / float64(s.expected)
	}
	_, _ = fmt.Fprintf(&b, "%s rows; %s alerts that must exist, %s that may besides (%.1f %%); %s users told\n",
		thousands(s.rows), thousands(s.expected), thousands(s.possible), share, thousands(s.told))
	_, _ = fmt.Fprintf(&b, "%s of them deliver: %s deliveries that must arrive, %s messages arrived, %s of them once more; %d wrong deliveries\n",
		thousands(s.delivering), thousands(s.due), thousands(s.received), thousands(s.repeated), s.wrongDeliveries)
	_, _ = fmt.Fprintf(&b, "%s of them have budgets: %s budgets, %s alerts of them that must exist, %s that may besides; %s told, by %s notifications of admins\n",
		thousands(s.budgeted), thousands(s.budgets.InForce), thousands(s.budgets.Expected), thousands(s.budgets.Possible), thousands(s.budgets.Told), thousands(s.budgets.Notices))
	_, _ = fmt.Fprintf(&b, "all right after the last fault was mended: %s\na schedule took: %s\n\n", spread(s.settled), spread(s.took))
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "fault\tlanded\twhile a tick was open\t")
	for _, kind := range s.kinds {
		_, _ = fmt.Fprintf(t, "%s\t%d\t%d\t\n", kind, s.landed[kind].All, s.landed[kind].Open)
	}
	_, _ = fmt.Fprintln(t, "\t\t\t\nfault of a receiver\tlanded\tand met a delivery\t")
	for _, kind := range plan.ReceiverFaults {
		_, _ = fmt.Fprintf(t, "%s\t%d\t%d\t\n", kind, s.spoilt[kind].All, s.spoilt[kind].Open)
	}
	_ = t.Flush() // into memory
	b.WriteString("\nin the workers' logs: ")
	var said []string
	for _, event := range interesting {
		if n := s.events[event]; n > 0 {
			said = append(said, fmt.Sprintf("%s %s", thousands(n), event))
		}
	}
	b.WriteString(strings.Join(said, ", ") + "\n")
	return b.String()
}

func spread(d []time.Duration) string {
	if len(d) == 0 {
		return "nothing was measured"
	}
	at := func(q float64) time.Duration { return d[min(len(d)-1, int(q*float64(len(d))))].Round(time.Millisecond) }
	return fmt.Sprintf("median %s, 99 %% within %s, maximum %s", at(0.5), at(0.99), d[len(d)-1].Round(time.Millisecond))
}

func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// writeInto puts what was printed into a page, between the markers of that
// name. No page: nothing is to be written.
func writeInto(file, name, text string) error {
	if file == "" {
		return nil
	}
	return page.Replace(file, name, "```\n"+text+"```\n")
}
