package main

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/pgtest"
)

// TestMain is also the worker of a competitor, which is this program.
func TestMain(m *testing.M) {
	if isWorker() {
		main()
		return
	}
	pgtest.Main(m)
}

// All competitors and cells in short. The figures mean nothing; that they are
// there does, and that everybody was told, or else is said to have not been.
func TestQuick(t *testing.T) {
	o := options{form: smoke, results: t.TempDir(), binDir: os.Getenv("PGTEST_BIN"), progress: logged{t}}
	r, err := run(t.Context(), o)
	require.NoError(t, err)
	assert.NotContains(t, r.Absent, "river", "Go and the module proxy are here")
	away := len(r.Absent)
	for key, why := range r.Absent {
		t.Logf("SKIPPED %s: %s", key, why)
	}
	assert.Len(t, r.Cost, 2*(len(entries)-1-away), "all but who only catches up")
	assert.Len(t, r.Latency, 2*(7-away))
	assert.Len(t, r.CatchUp, 7-away)
	assert.Len(t, r.Parts, smoke.Parts*len(parts))
	require.Len(t, r.Growth, len(smoke.Growth.settings()), "each checks itself what its ticks count and tell")
	require.Len(t, r.Horizon.Stages, 3)
	require.Len(t, r.Verdicts, 8+7+7-3*away)
	expected := map[string]int{}
	for _, v := range r.Verdicts {
		expected[v.Cell] += v.Expected
		if v.Cell != cellCost || named(v.Competitor).most == 0 { // so short that in a job queue nobody may cross
			assert.Positive(t, v.Expected, "%+v", v)
		}
		switch v.Competitor {
		case "notify":
			assert.Equal(t, v.Cell != cellCatchUp, v.right(), "notify loses what was rung while nobody listened: %+v", v)
		case "host": // whose defects are its own
		default:
			assert.True(t, v.right(), "%+v", v)
		}
	}
	assert.Positive(t, expected[cellCost])
	for _, m := range r.Latency {
		assert.Zero(t, m.Unseen, "%+v", m)
	}
	for _, m := range r.CatchUp {
		assert.Equal(t, m.Competitor == "notify", m.Lost, "%+v", m)
		assert.Equal(t, strings.HasPrefix(m.Competitor, "tokenalert"), m.Ticks > 0, "%+v", m)
	}
	for _, m := range r.Growth {
		assert.Len(t, m.Milliseconds, smoke.Growth.Ticks)
		assert.Positive(t, percentile(m.WAL, 0.5), "%+v", m)
	}
	assert.Greater(t, r.Horizon.Stages[1].Dead, r.Horizon.Stages[0].Dead, "what nobody may remove")

	require.Len(t, r.Rest, 10-away)
	for _, m := range r.Rest {
		if m.Competitor != "graphile-worker" { // which polls every two seconds
			assert.Equal(t, m.Competitor != "none" && m.Competitor != "notify", m.Statements > 0, "%+v", m)
		}
	}
	assert.Len(t, r.Starts, smoke.Starts)
	assert.Positive(t, slices.Min(r.Starts))
	assert.Positive(t, r.Binary)

	text := r.markdown("")
	assert.NotContains(t, text, "NaN")
	assert.Contains(t, text, "**WRONG**", "notify in catching up")
	for _, e := range entries {
		if why, absent := r.Absent[e.key]; absent {
			assert.Contains(t, text, "Not played: "+e.key+" ("+why+").")
			continue
		}
		assert.Contains(t, text, "| "+e.label+" |")
	}
	assert.Contains(t, text, ", River v")
	charts := r.charts()
	assert.Len(t, charts, 4)
	for _, c := range charts {
		picture, err := os.ReadFile(filepath.Join(o.results, r.file("-"+c.cell+".svg")))
		require.NoError(t, err)
		assert.NotContains(t, string(picture), "NaN")
		d := xml.NewDecoder(strings.NewReader(string(picture)))
		for err == nil {
			_, err = d.Token()
		}
		require.ErrorIs(t, err, io.EOF)
	}

	kept, err := options{results: t.TempDir()}.figures(t.Context(), filepath.Join(o.results, r.file(".json")))
	require.NoError(t, err)
	assert.Equal(t, text, kept.markdown(""), "the report follows from what is kept")
	summary := kept.summary()
	for _, e := range entries {
		assert.Equal(t, e.summed() && r.Absent[e.key] == "", strings.Contains(summary, "\n| "+e.label+" | "), e.label)
	}
	_, err = options{}.figures(t.Context(), "nowhere.json")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// logged is a test's log.
type logged struct{ t *testing.T }

func (l logged) Write(line []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(line)))
	return len(line), nil
}

// Only one thing differs from whom a setting is compared with.
func TestDimensions(t *testing.T) {
	t.Parallel()
	for _, f := range []form{smoke, subset, everything} {
		dimensions := f.Growth.dimensions()
		require.Len(t, dimensions, 8)
		for _, d := range dimensions {
			assert.Contains(t, d.settings, d.base, "%s, %s: there is nothing to compare with", f.Name, d.name)
			for _, s := range d.settings {
				differs := 0
				for _, other := range dimensions {
					if other.value(s) != other.value(d.base) {
						differs++
					}
				}
				if s.Users > f.Growth.Base.History { // whose totals each need a row
					differs--
				}
				assert.LessOrEqual(t, differs, 1, "%s, %s: %+v", f.Name, d.name, s)
				assert.LessOrEqual(t, s.Rows, s.Users, "each of another user")
				assert.LessOrEqual(t, s.Crossings, s.Rows)
			}
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []string{"none", "host", "notify", "outbox", "river", "graphile-worker", "pgq", "tokenalert"}, keys())
	only := options{competitors: []string{"tokenalert"}}
	var names []string
	for _, e := range only.variants() {
		names = append(names, e.key)
	}
	assert.Equal(t, []string{"none", "tokenalert", "none-again", "tokenalert-dead"}, names)
	lacking := options{absent: map[string]string{"outbox": "no box"}}.variants()
	assert.Len(t, lacking, len(entries)-2, "without the box, and the one that only catches up")
	assert.NotContains(t, lacking, named("outbox"))
	require.ErrorContains(t, options{only: []string{"speed"}}.validate(), "--only speed")
	require.ErrorContains(t, options{competitors: []string{"cron"}}.validate(), "--competitor cron")
}

// Who cannot be had is said and not played; the others are.
func TestAbsent(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // where there is no Node.js
	var said strings.Builder
	b := &bench{scratch: t.TempDir(), options: options{competitors: []string{"graphile-worker", "outbox"}, progress: &said}}
	require.NoError(t, b.build(t.Context()))
	assert.Contains(t, said.String(), "SKIPPED graphile-worker: there is no Node.js here: ")
	var names []string
	for _, e := range b.chosen() {
		names = append(names, e.key)
	}
	assert.Equal(t, []string{"none", "outbox"}, names)
	r := &results{Absent: b.absent}
	assert.Contains(t, r.markdown(""), "\nNot played: graphile-worker (there is no Node.js here: ")
}

func TestPart(t *testing.T) {
	t.Parallel()
	all := backlog{200_000, 10_000, zipf}
	assert.Equal(t, backlog{20_000, 1_000, zipf}, all.part(20_000))
	assert.Equal(t, all, all.part(0))
	assert.Equal(t, all, all.part(1_000_000))
}

func TestVerdictsAreSaid(t *testing.T) {
	t.Parallel()
	r := &results{Verdicts: []verdict{
		{Cell: cellCost, Competitor: "outbox", Round: 1, Expected: 1000},
		{Cell: cellCost, Competitor: "outbox", Round: 2, Expected: 500},
		{Cell: cellCost, Competitor: "notify", Round: 1, Expected: 10},
		{Cell: cellCost, Competitor: "notify", Round: 2, Expected: 10, Lost: 3, Doubled: 1},
		{Cell: cellCost, Competitor: "host", Round: 1, Expected: 10, Unfinished: true},
	}}
	assert.Equal(t, "all 1,500 right", r.verdictOf(cellCost, "", named("outbox")))
	assert.Equal(t, "**WRONG**: 3 lost, 1 doubled, of 20", r.verdictOf(cellCost, "", named("notify")))
	assert.Equal(t, "**WRONG**: did not finish, of 10", r.verdictOf(cellCost, "", named("host")))
	assert.Equal(t, "not checked", r.verdictOf(cellCost, "", named("tokenalert")))
	assert.Equal(t, "tells nobody", r.verdictOf(cellCost, "", named("none")))
}

func named(key string) entry {
	return entries[slices.IndexFunc(entries, func(e entry) bool { return e.key == key })]
}
