package main

import (
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestPercentile(t *testing.T) {
	t.Parallel()
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, c := range []struct {
		values  []float64
		q, want float64
	}{
		{hundred, 0.5, 50},
		{hundred, 0.9, 90},
		{hundred, 0.99, 99},
		{hundred, 1, 100},
		{hundred, 0, 1},
		{[]float64{7}, 0.99, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 3, 1, 2}, 0.5, 2},
		{[]float64{2, 1}, 0.51, 2},
	} {
		assert.InDelta(t, c.want, percentile(c.values, c.q), 0, "%v of %v", c.q, c.values)
	}
	assert.InDelta(t, 100, hundred[0], 0, "the values stay as they were")
	assert.True(t, math.IsNaN(percentile(nil, 0.5)))
}

func TestSpread(t *testing.T) {
	t.Parallel()
	nan := math.NaN()
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{5}, spread{5, 5, 5}},
		{[]float64{3, 1, 2}, spread{1, 2, 3}},
		{[]float64{4, 1, 2, 3}, spread{1, 2.5, 4}},
		{[]float64{nan, 2, nan}, spread{2, 2, 2}},
	} {
		assert.Equal(t, c.want, spreadOf(c.values), "%v", c.values)
	}
	assert.True(t, math.IsNaN(spreadOf([]float64{nan}).Median))
	assert.Equal(t, "–", spreadOf(nil).show(ratio))
	assert.Equal(t, "0.97×", spread{0.971, 0.972, 0.974}.show(ratio))
	assert.Equal(t, "0.97× (0.90–1.01)", spread{0.9, 0.97, 1.01}.show(ratio))
	assert.Equal(t, "1,250 (900–2,000)", spread{900, 1250, 2000}.show(thousands))
}

func TestRotated(t *testing.T) {
	t.Parallel()
	assert.Equal(t, []string{"a", "b", "c"}, rotated([]string{"a", "b", "c"}, 0))
	assert.Equal(t, []string{"b", "a", "c"}, rotated([]string{"a", "b", "c"}, 1))
	assert.Equal(t, []string{"a", "c", "b"}, rotated([]string{"a", "b", "c"}, 5))
	const turns = 3 // the rounds of the subset
	all := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	first, pairs := map[string]int{}, map[string]int{}
	for turn := range turns {
		order := rotated(all, turn)
		assert.ElementsMatch(t, all, order)
		first[order[0]]++
		for i := range order[1:] {
			pairs[order[i]+order[i+1]]++
		}
	}
	assert.Less(t, slices.Max(slices.Collect(maps.Values(first))), turns)
	assert.Less(t, slices.Max(slices.Collect(maps.Values(pairs))), turns)
	assert.Empty(t, rotated([]string{}, 3))
}
