package main

import (
	"encoding/json"
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
	assert.Len(t, r.Cost, 2*len(entries))
	assert.Len(t, r.Latency, 2*4)
	assert.Len(t, r.CatchUp, 3)
	require.Len(t, r.Growth, len(smoke.Growth.settings()), "each checks itself what its ticks count and tell")
	require.Len(t, r.Horizon.Stages, 3)
	require.Len(t, r.Verdicts, 5+4+3)
	for _, v := range r.Verdicts {
		assert.Positive(t, v.Expected, "%+v", v)
		switch v.Competitor {
		case "notify":
			assert.Equal(t, v.Cell != cellCatchUp, v.right(), "notify loses what was rung while nobody listened: %+v", v)
		case "host": // whose defects are its own
		default:
			assert.True(t, v.right(), "%+v", v)
		}
	}
	for _, m := range r.Latency {
		assert.Zero(t, m.Unseen, "%+v", m)
	}
	for _, m := range r.CatchUp {
		assert.Equal(t, m.Competitor == "notify", m.Lost, "%+v", m)
		assert.Equal(t, m.Competitor == "tokenalert", m.Ticks > 0, "%+v", m)
	}
	for _, m := range r.Growth {
		assert.Len(t, m.Milliseconds, smoke.Growth.Ticks)
		assert.Positive(t, percentile(m.WAL, 0.5), "%+v", m)
	}
	assert.Greater(t, r.Horizon.Stages[1].Dead, r.Horizon.Stages[0].Dead, "what nobody may remove")

	text := r.markdown("")
	assert.NotContains(t, text, "NaN")
	assert.Contains(t, text, "**WRONG**", "notify in catching up")
	for _, e := range entries {
		assert.Contains(t, text, "| "+e.label+" |")
	}
	var again results
	raw, err := os.ReadFile(filepath.Join(o.results, r.file(".json")))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &again))
	assert.Equal(t, text, again.markdown(""), "the report follows from what is kept")
	for _, cell := range cellNames {
		picture, err := os.ReadFile(filepath.Join(o.results, r.file("-"+cell+".svg")))
		require.NoError(t, err)
		assert.NotContains(t, string(picture), "NaN")
		d := xml.NewDecoder(strings.NewReader(string(picture)))
		for err == nil {
			_, err = d.Token()
		}
		require.ErrorIs(t, err, io.EOF)
	}
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
		require.Len(t, dimensions, 7)
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
	assert.Equal(t, []string{"none", "host", "notify", "outbox", "tokenalert"}, keys())
	only := options{competitors: []string{"tokenalert"}}
	var names []string
	for _, e := range only.variants() {
		names = append(names, e.key)
	}
	assert.Equal(t, []string{"none", "tokenalert", "none-again", "tokenalert-dead"}, names)
	require.ErrorContains(t, options{only: []string{"speed"}}.validate(), "--only speed")
	require.ErrorContains(t, options{competitors: []string{"river"}}.validate(), "--competitor river")
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
