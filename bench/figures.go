package main

import (
	"fmt"
	"math"
	"slices"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// A costKey names a setting of the first cell.
type costKey struct {
	history int
	commit  string
	clients int
}

func (m costPlay) key() costKey { return costKey{m.History, m.Commit, m.Clients} }

func (r *results) costKeys() []costKey { return distinct(r.Cost, costPlay.key) }
func (r *results) rates() []float64 {
	return distinct(r.Latency, func(m latencyPlay) float64 { return m.Rate })
}

func (r *results) backlogs() []backlog {
	return distinct(r.CatchUp, func(m catchUpPlay) backlog { return m.Backlog })
}

// distinct are the settings that were played, in that order.
func distinct[T any, K comparable](plays []T, setting func(T) K) []K {
	var all []K
	for _, p := range plays {
		if k := setting(p); !slices.Contains(all, k) {
			all = append(all, k)
		}
	}
	return all
}

// A costFigure is a competitor under one setting, over the rounds.
type costFigure struct{ ratio, rate, p99, behind spread }

func (r *results) costFigure(key costKey, competitor string) costFigure {
	var ratios, rates, p99s, behind []float64
	for _, m := range r.Cost {
		if m.key() != key || m.Competitor != competitor {
			continue
		}
		rates, p99s, behind = append(rates, m.Rate), append(p99s, m.P99), append(behind, m.Behind)
		if base := r.untriggered(key, m.Round); base > 0 {
			ratios = append(ratios, m.Rate/base)
		}
	}
	return costFigure{spreadOf(ratios), spreadOf(rates), spreadOf(p99s), spreadOf(behind)}
}

// untriggered is the rate of a round without a trigger: the mean of both plays, of
// which neither is the truer; 0: not played.
func (r *results) untriggered(key costKey, round int) float64 {
	var sum, n float64
	for _, m := range r.Cost {
		if m.key() == key && m.Round == round && slices.ContainsFunc(entries, func(e entry) bool { return e.key == m.Competitor && e.silent() }) {
			sum, n = sum+m.Rate, n+1
		}
	}
	return sum / max(n, 1)
}

// latencyFigure is the spread over the rounds of one percentile; of too few rows
// to tell it from the maximum it is not a number.
func (r *results) latencyFigure(rate float64, competitor string, q float64) spread {
	return r.latencySpread(rate, competitor, func(m latencyPlay) float64 {
		if q < 1 && float64(len(m.Milliseconds))*(1-q) < 0.999 {
			return math.NaN()
		}
		return percentile(m.Milliseconds, q)
	})
}

// latencySpread is the spread over the rounds of what was measured at a rate.
func (r *results) latencySpread(rate float64, competitor string, of func(latencyPlay) float64) spread {
	var values []float64
	for _, m := range r.Latency {
		if m.Rate == rate && m.Competitor == competitor {
			values = append(values, of(m))
		}
	}
	return spreadOf(values)
}

// counted is how often a competitor was measured at a rate, and how many of its
// alerts were not seen.
func (r *results) counted(rate float64, competitor string) (rows, unseen int) {
	for _, m := range r.Latency {
		if m.Rate == rate && m.Competitor == competitor {
			rows, unseen = rows+len(m.Milliseconds), unseen+m.Unseen
		}
	}
	return rows, unseen
}

// A catchUpFigure is a competitor before one backlog, over the rounds.
type catchUpFigure struct {
	ratio, rate, rows, seconds, megabytes, longest spread
	lost                                           bool
}

// ratioOf is whom the others are compared with where a backlog is counted: who
// has no trigger counts nothing.
const ratioOf = "outbox"

func (r *results) catchUpFigure(b backlog, competitor string) catchUpFigure {
	var ratios, rates, rows, seconds, megabytes, longest []float64
	var f catchUpFigure
	for _, m := range r.CatchUp {
		if m.Backlog != b || m.Competitor != competitor {
			continue
		}
		f.lost = f.lost || m.Lost
		rows = append(rows, float64(m.Rows))
		rates, seconds, longest = append(rates, m.Rate), append(seconds, m.Seconds), append(longest, orNaN(m.LongestTick))
		megabytes = append(megabytes, orNaN(float64(m.PeakBytes)/1e6))
		for _, base := range r.CatchUp {
			if base.Backlog == b && base.Round == m.Round && base.Competitor == ratioOf {
				ratios = append(ratios, m.Rate/base.Rate)
			}
		}
	}
	f.rows = spreadOf(rows)
	f.ratio, f.rate, f.seconds, f.megabytes, f.longest = spreadOf(ratios), spreadOf(rates), spreadOf(seconds), spreadOf(megabytes), spreadOf(longest)
	return f
}

// A growthFigure is what ticks of one setting cost, over the turns: medians.
type growthFigure struct{ ms, msRatio, cpu, cpuRatio, buffers, wal spread }

func (r *results) growthFigure(s, base setting) growthFigure {
	var ms, msRatio, cpu, cpuRatio, buffers, wal []float64
	for _, m := range r.Growth {
		if m.Setting != s {
			continue
		}
		took, worked := percentile(m.Milliseconds, 0.5), orNaN(percentile(m.CPU, 0.5))
		ms, cpu = append(ms, took), append(cpu, worked)
		buffers, wal = append(buffers, orNaN(float64(m.Buffers))), append(wal, percentile(m.WAL, 0.5))
		for _, b := range r.Growth {
			if b.Setting == base && b.Turn == m.Turn {
				msRatio = append(msRatio, took/percentile(b.Milliseconds, 0.5))
				cpuRatio = append(cpuRatio, worked/orNaN(percentile(b.CPU, 0.5)))
			}
		}
	}
	return growthFigure{spreadOf(ms), spreadOf(msRatio), spreadOf(cpu), spreadOf(cpuRatio), spreadOf(buffers), spreadOf(wal)}
}

// orNaN has what was not measured be no number.
func orNaN(v float64) float64 {
	if v == 0 {
		return math.NaN()
	}
	return v
}

// played are the competitors of whom there is a figure, in the order of the
// tables.
func played[T any](plays []T, competitor func(T) string) []entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e entry) bool {
		return !slices.ContainsFunc(plays, func(p T) bool { return competitor(p) == e.key })
	})
}

func (m costPlay) competitor() string    { return m.Competitor }
func (m latencyPlay) competitor() string { return m.Competitor }
func (m catchUpPlay) competitor() string { return m.Competitor }

var english = message.NewPrinter(language.English)

func thousands(v float64) string { return english.Sprintf("%.0f", v) }

func (b backlog) String() string {
	return fmt.Sprintf("%s rows, %s users, %s", thousands(float64(b.Rows)), thousands(float64(b.Users)), b.Law)
}

func historyName(rows int) string {
	if rows == 0 {
		return "an empty month"
	}
	return thousands(float64(rows)) + " rows in the month"
}

func rateName(rate float64) string {
	if rate == 0 {
		return "from idle"
	}
	return thousands(rate) + " rows/s"
}
