package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// show writes a spread: the median, and the others in brackets where they
// differ.
func (s spread) show(format func(float64) string) string {
	if math.IsNaN(s.Median) {
		return "–"
	}
	low, middle, high := format(s.Min), format(s.Median), format(s.Max)
	if low == high {
		return middle
	}
	return fmt.Sprintf("%s (%s–%s)", middle, strings.TrimSuffix(low, "×"), strings.TrimSuffix(high, "×"))
}

func ratio(v float64) string      { return fmt.Sprintf("%.2f×", v) }
func tenths(v float64) string     { return fmt.Sprintf("%.1f", v) }
func hundredths(v float64) string { return fmt.Sprintf("%.2f", v) }

// markdown is the report. Its pictures are in a folder, whose name ends with a
// slash; empty: beside it.
func (r *results) markdown(folder string) string {
	var b strings.Builder
	m := r.Machine
	versions := []string{"PostgreSQL " + r.PostgreSQL, m.Go}
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		versions = append(versions, name+" "+r.Versions[name])
	}
	took := "took"
	if r.CutShort {
		took = "**cut short** after"
	}
	_, _ = fmt.Fprintf(&b, "%s, %s, %d cores (%s), %s MB of memory; %s form, rounds: %d, %s, %s %s.\n\n",
		strings.Join(versions, ", "), m.System, m.Cores, m.CPU, thousands(float64(m.MemoryMB)),
		r.Form.Name, r.Rounds, r.Began.Format(time.DateOnly), took, r.Took.Round(time.Second))
	var said []string
	for _, name := range slices.Sorted(maps.Keys(r.Settings)) {
		said = append(said, name+" = "+r.Settings[name])
	}
	_, _ = fmt.Fprintf(&b, "Settings: `%s`.\n", strings.Join(said, "`, `"))
	for _, key := range slices.Sorted(maps.Keys(r.Absent)) {
		_, _ = fmt.Fprintf(&b, "\nNot played: %s (%s).\n", key, r.Absent[key])
	}
	pictures := map[string]string{}
	for _, c := range r.charts() {
		pictures[c.cell] = fmt.Sprintf("\n![%s](%s%s)\n", c.title, folder, r.file("-"+c.cell+".svg"))
	}
	if len(r.Cost) > 0 {
		b.WriteString("\n### What an insert costs\n" + pictures[cellCost])
		r.writeCost(&b)
	}
	if len(r.Parts) > 0 {
		b.WriteString("\n### What of an insert is ours\n")
		r.writeParts(&b)
	}
	if len(r.Latency) > 0 {
		b.WriteString("\n### From the commit to the alert\n" + pictures[cellLatency])
		r.writeLatency(&b)
	}
	if len(r.CatchUp) > 0 {
		b.WriteString("\n### Catching up\n" + pictures[cellCatchUp])
		r.writeCatchUp(&b)
	}
	if len(r.Rest) > 0 {
		b.WriteString("\n### At rest\n")
		r.writeRest(&b)
	}
	if len(r.Growth) > 0 {
		b.WriteString("\n### How the cost of a tick grows\n" + pictures[cellGrowth])
		r.writeGrowth(&b)
	}
	return b.String()
}

// summary has one line for each competitor: where the CPU is the limit and there
// is most history, at the highest rate of 200 or less, before the first backlog.
func (r *results) summary() string {
	cost, rates, backlogs := r.costKeys(), r.rates(), r.backlogs()
	if len(cost) == 0 || len(rates) == 0 || len(backlogs) == 0 {
		return ""
	}
	cost = slices.DeleteFunc(cost, func(k costKey) bool { return k.commit != commits[0].name || k.clients > 16 })
	key := slices.MaxFunc(cost, func(a, b costKey) int {
		return cmp.Or(cmp.Compare(a.history, b.history), cmp.Compare(a.clients, b.clients))
	})
	rate := slices.Max(slices.DeleteFunc(rates, func(rate float64) bool { return rate > 200 }))
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "| %s | inserts of %d clients (%s) | median and p99 to the alert at %s, ms | rows/s while catching up | alerts |\n|---|---|---|---:|---|\n",
		r.Began.Format(time.DateOnly), key.clients, historyName(key.history), rateName(rate))
	for _, e := range entries {
		if !e.summed() || r.Absent[e.key] != "" {
			continue
		}
		c, l, caught := r.costFigure(key, e.key), r.latencyFigure(rate, e.key, 0.5), r.catchUpFigure(backlogs[0], e.key)
		latency, caughtUp := "–", caught.rate.show(thousands)
		if !math.IsNaN(l.Median) {
			latency = tenths(l.Median) + ", " + tenths(r.latencyFigure(rate, e.key, 0.99).Median)
		}
		if caught.lost {
			caughtUp = "loses them"
		}
		_, _ = fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", e.label, c.ratio.show(ratio), latency, caughtUp, r.allVerdicts(e))
	}
	return b.String()
}

func (r *results) writeCost(b *strings.Builder) {
	var before costKey
	keys := r.costKeys()
	for _, key := range keys {
		if key.history == before.history && key.commit == before.commit {
			continue
		}
		before = key
		columns := slices.DeleteFunc(slices.Clone(keys), func(k costKey) bool { return k.history != key.history || k.commit != key.commit })
		_, _ = fmt.Fprintf(b, "\n%s, %s:\n\n| |", upper(historyName(key.history)), key.commit)
		for _, k := range columns {
			name := "clients"
			if k.clients == 1 {
				name = "client"
			}
			_, _ = fmt.Fprintf(b, " %d %s | rows/s | p99, ms |", k.clients, name)
		}
		b.WriteString(" behind, s | alerts |\n|---|" + strings.Repeat("---|---:|---:|", len(columns)) + "---:|---|\n")
		for _, e := range played(r.Cost, costPlay.competitor) {
			b.WriteString("| " + e.label + " |")
			behind := 0.0
			for _, k := range columns {
				f := r.costFigure(k, e.key)
				_, _ = fmt.Fprintf(b, " %s | %s | %s |", f.ratio.show(ratio), f.rate.show(thousands), f.p99.show(hundredths))
				behind = max(behind, f.behind.Max)
			}
			_, _ = fmt.Fprintf(b, " %.1f | %s |\n", behind, r.verdictOf(cellCost, historyName(key.history), e))
		}
	}
}

func (r *results) writeParts(b *strings.Builder) {
	b.WriteString("\nCPU of the server's process per insert, microseconds:\n\n| | all | more than no trigger |\n|---|---:|---:|\n")
	for _, part := range parts {
		cpu, more := r.partFigure(part.name)
		_, _ = fmt.Fprintf(b, "| %s | %s | %s |\n", part.name, cpu.show(tenths), more.show(tenths))
	}
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func (r *results) writeLatency(b *strings.Builder) {
	looks := spread{}
	for _, m := range r.Latency {
		looks.Median, looks.Max = max(looks.Median, m.LookP50), max(looks.Max, m.LookP99)
	}
	_, _ = fmt.Fprintf(b, "\nIn milliseconds. The observer's looks were %.1f ms apart in the median, and in 99 %% of cases %.1f ms at the most (of all plays, the worst).\n", looks.Median, looks.Max)
	b.WriteString("\n| | | p50 | p90 | p99 | maximum | rows | rows/s reached | alerts |\n|---|---|---:|---:|---:|---:|---:|---:|---|\n")
	for _, rate := range r.rates() {
		for _, e := range played(r.Latency, latencyPlay.competitor) {
			rows, unseen := r.counted(rate, e.key)
			mark := r.verdictOf(cellLatency, "", e)
			if unseen > 0 {
				mark = fmt.Sprintf("**%d never seen**; %s", unseen, mark)
			}
			at := func(q float64) string { return r.latencyFigure(rate, e.key, q).show(tenths) }
			_, _ = fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %.1f | %s | %s | %s |\n", rateName(rate), e.label,
				at(0.5), at(0.9), at(0.99), r.latencyFigure(rate, e.key, 1).Max, thousands(float64(rows)), r.reached(rate, e.key), mark)
		}
	}
}

// reached is at what rate rows came: fewer a second than wanted, where sixteen
// inserts at once take longer.
func (r *results) reached(rate float64, competitor string) string {
	if rate == 0 {
		return "–"
	}
	return r.latencySpread(rate, competitor, func(m latencyPlay) float64 { return orNaN(m.Reached) }).show(thousands)
}

func (r *results) writeCatchUp(b *strings.Builder) {
	b.WriteString("\n| | | of the outbox | rows/s | rows | seconds | peak memory, MB | longest tick, ms | alerts |\n|---|---|---|---:|---:|---:|---:|---:|---|\n")
	for _, backlog := range r.backlogs() {
		for _, e := range played(r.CatchUp, catchUpPlay.competitor) {
			f := r.catchUpFigure(backlog, e.key)
			if f.lost { // how fast it did not do it says nothing
				none := spread{math.NaN(), math.NaN(), math.NaN()}
				f.ratio, f.rate, f.seconds = none, none, none
			}
			_, _ = fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", backlog, e.label, f.ratio.show(ratio), f.rate.show(thousands),
				thousands(f.rows.Median), f.seconds.show(tenths), f.megabytes.show(thousands), f.longest.show(thousands), r.verdictOf(cellCatchUp, backlog.String(), e))
		}
	}
}

func (r *results) writeRest(b *strings.Builder) {
	b.WriteString("\nA minute, and at its end:\n\n| | statements | WAL, kB | CPU, s | memory, MB |\n|---|---:|---:|---:|---:|\n")
	for _, e := range played(r.Rest, restPlay.competitor) {
		for _, m := range r.Rest {
			if m.Competitor != e.key {
				continue
			}
			label, statements, memory := e.label, math.Inf(1), math.Inf(1)
			wal := tenths(m.perMinute(float64(m.WALBytes)) / 1000)
			switch m.Replica {
			case leading:
				label, statements, memory = label+", leader", goalLeader, goalMemory
			case following:
				label, statements, memory, wal = label+", follower", goalFollower, goalMemory, "with the leader's"
			case leading + delivering:
				label, memory = label+", "+m.Replica, goalMemory
			case following + delivering:
				label, memory, wal = label+", "+m.Replica, goalMemory, "with the leader's"
			}
			cpu := hundredths(m.perMinute(m.CPUSeconds))
			if m.Resident == 0 {
				cpu = "–"
			}
			_, _ = fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", label, within(m.perMinute(float64(m.Statements)), statements, thousands), wal, cpu,
				within(orNaN(megabytes(m.Resident)), memory, tenths))
		}
	}
	if len(r.Starts) > 0 {
		start := spreadOf(r.Starts)
		_, _ = fmt.Fprintf(b, "\ntokenalert's binary has %s MB. From the start of its process to the first tick: %s ms, of %d starts %s.\n",
			within(megabytes(r.Binary), goalBinary, tenths), within(start.Median, goalStart, tenths), len(r.Starts), start.show(tenths))
	}
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }

// within shows a figure beside what it may be at the most; infinity: anything.
func within(v, goal float64, format func(float64) string) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(goal, 1):
		return format(v)
	case v > goal:
		return fmt.Sprintf("**%s** (goal: ≤ %s)", format(v), thousands(goal))
	}
	return fmt.Sprintf("%s (≤ %s)", format(v), thousands(goal))
}

func (r *results) writeGrowth(b *strings.Builder) {
	for _, d := range r.Form.Growth.dimensions() {
		base := thousands(float64(d.value(d.base)))
		_, _ = fmt.Fprintf(b, "\n| %s | tick, ms | of %s | CPU, ms | of %s | buffers | WAL, bytes |\n|---:|---:|---|---:|---|---:|---:|\n", d.name, base, base)
		for _, s := range d.settings {
			f := r.growthFigure(s, d.base)
			_, _ = fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s |\n", thousands(float64(d.value(s))), f.ms.show(hundredths), f.msRatio.show(ratio),
				f.cpu.show(hundredths), f.cpuRatio.show(ratio), f.buffers.show(thousands), f.wal.show(thousands))
		}
	}
	if h := r.Horizon; h != nil {
		_, _ = fmt.Fprintf(b, "\nAn old snapshot held for %s seconds and %s ticks:\n", thousands(h.Seconds), thousands(float64(h.Ticks)))
		b.WriteString("\n| | tick, ms | CPU, ms | buffers | dead rows of totals | their table, MB |\n|---|---:|---:|---:|---:|---:|\n")
		for _, s := range h.Stages {
			_, _ = fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %.1f |\n", s.Name, spreadOf(s.Milliseconds).show(hundredths), spreadOf(s.CPU).show(hundredths),
				thousands(float64(s.Buffers)), thousands(float64(s.Dead)), float64(s.Bytes)/1e6)
		}
	}
}
