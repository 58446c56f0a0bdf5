package main

import (
	"math"
	"slices"
)

// percentile is the value below or at which a share q of the values lie, by
// the nearest rank; of none it is not a number. The values may be in any order.
func percentile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// A spread is what came of the rounds.
type spread struct{ Min, Median, Max float64 }

// spreadOf leaves out what is not a number. The median of an even number of
// values is the mean of the two in the middle.
func spreadOf(values []float64) spread {
	var sorted []float64
	for _, v := range values {
		if !math.IsNaN(v) {
			sorted = append(sorted, v)
		}
	}
	slices.Sort(sorted)
	n := len(sorted)
	if n == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	return spread{sorted[0], (sorted[(n-1)/2] + sorted[n/2]) / 2, sorted[n-1]}
}
