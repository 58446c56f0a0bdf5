package worker

import (
	"math"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"tokenalert/store"
)

// percentages are thresholds as the settings may hold them, ascending.
func percentages(least int) *rapid.Generator[[]int32] {
	return rapid.Custom(func(t *rapid.T) []int32 {
		p := rapid.SliceOfNDistinct(rapid.OneOf(rapid.SampledFrom([]int32{80, 90, 100}), rapid.Int32Range(1, 1000)), least, 10, rapid.ID).
			Draw(t, "percentages")
		slices.Sort(p)
		return p
	})
}

// someRules are the settings of a tick and of the one before it.
func someRules(t *rapid.T) rules {
	r := usualRules()
	r.thresholds = percentages(1).Draw(t, "thresholds")
	r.added = rapid.SliceOfNDistinct(rapid.SampledFrom(r.thresholds), 0, len(r.thresholds), rapid.ID).Draw(t, "added")
	r.backfill = rapid.Bool().Draw(t, "backfill")
	return r
}

// someCandidate favours what lies around a threshold, and the ends of int64.
func someCandidate(t *rapid.T, r rules) store.Candidate {
	whole := rapid.OneOf(rapid.Int64Range(0, 2000), rapid.Int64(), rapid.SampledFrom([]int64{math.MinInt64, -1, 0, 1, math.MaxInt64}))
	limit := whole.Draw(t, "limit")
	used := whole.Draw(t, "used")
	if rapid.Bool().Draw(t, "around a threshold") {
		at := new(big.Int).Mul(big.NewInt(limit), big.NewInt(int64(rapid.SampledFrom(r.thresholds).Draw(t, "threshold"))))
		at.Quo(at, big.NewInt(100))
		at.Add(at, big.NewInt(rapid.Int64Range(-2, 2).Draw(t, "off by")))
		if at.IsInt64() {
			used = at.Int64()
		}
	}
	c := inMay(used, limit, percentages(0).Draw(t, "marks")...)
	c.Told = percentages(0).Draw(t, "told")
	return c
}

func someInstant(t *rapid.T) time.Time {
	return rapid.SampledFrom([]time.Time{
		mayBegins.Add(-time.Microsecond), mayBegins, midMay, mayEnds.Add(-time.Microsecond), mayEnds, mayEnds.AddDate(0, 1, 0),
	}).Draw(t, "now")
}

func someKind(t *rapid.T) store.Kind {
	return rapid.SampledFrom([]store.Kind{store.Window, store.Full, store.First}).Draw(t, "kind")
}

// stands reports whether usage is at or above so many hundredths of the limit,
// without a bound on the numbers.
func stands(c store.Candidate, percent int32) bool {
	used := new(big.Int).Mul(big.NewInt(c.TokensUsed), big.NewInt(100))
	return c.TokenLimit > 0 && used.Cmp(new(big.Int).Mul(big.NewInt(c.TokenLimit), big.NewInt(int64(percent)))) >= 0
}

// clearlyBelow reports whether usage is at least one percentage point below.
func clearlyBelow(c store.Candidate, percent int32) bool {
	used := new(big.Int).Mul(big.NewInt(c.TokensUsed), big.NewInt(100))
	return c.TokenLimit <= 0 || used.Cmp(new(big.Int).Mul(big.NewInt(c.TokenLimit), big.NewInt(int64(percent)-1))) <= 0
}

func TestMarksAreAFunctionOfUsage(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r, now := someRules(t), someInstant(t)
		c := someCandidate(t, r)
		d, changed := r.decide(someKind(t), now, &c)
		if now.Before(c.PeriodStart) {
			assert.False(t, changed)
			return
		}
		want := []int32{}
		for m := int32(1); m <= 1000; m++ {
			kept := slices.Contains(c.Marks, m) && !clearlyBelow(c, m)
			if kept || slices.Contains(r.thresholds, m) && stands(c, m) {
				want = append(want, m)
			}
		}
		assert.Equal(t, changed, !slices.Equal(want, c.Marks), "a decision is a change of marks")
		if changed {
			assert.Equal(t, want, append([]int32{}, d.Marks...))
		}
	})
}

func TestEveryCrossedThresholdIsRecordedAndTheHighestTold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r, kind, now := someRules(t), someKind(t), someInstant(t)
		c := someCandidate(t, r)
		d, changed := r.decide(kind, now, &c)
		var crossed, recorded, told []int32
		for _, threshold := range r.thresholds {
			if stands(c, threshold) && !slices.Contains(c.Marks, threshold) {
				crossed = append(crossed, threshold)
			}
		}
		for _, a := range d.Alerts {
			recorded = append(recorded, a.Threshold)
			if a.Reason == string(ReasonNone) {
				told = append(told, a.Threshold)
				assert.NotEmpty(t, a.Title)
				assert.NotEmpty(t, a.Body)
			}
			assert.Equal(t, PercentTenths(c.TokensUsed, c.TokenLimit), a.PercentTenths)
			assert.Equal(t, c.TokensUsed, a.TokensUsed)
			assert.Equal(t, c.TokenLimit, a.TokenLimit)
		}
		slices.Sort(recorded)
		if now.Before(c.PeriodStart) || !now.Before(c.PeriodEnd) && kind != store.Window {
			assert.Empty(t, recorded, "a period that has not begun, or a count that meets the past")
			return
		}
		assert.Equal(t, crossed, recorded)
		assert.LessOrEqual(t, len(told), 1, "told at most once")
		if !now.Before(c.PeriodEnd) || kind == store.First && r.backfill {
			assert.Empty(t, told)
		}
		for _, a := range d.Alerts {
			switch Reason(a.Reason) {
			case ReasonNone:
				// What a higher one says instead has a reason of its own.
				for _, higher := range d.Alerts {
					assert.False(t, higher.Threshold > a.Threshold && higher.Reason == string(ReasonSuperseded))
				}
			case ReasonSuperseded:
				higher := slices.Concat(told, c.Told, c.Marks)
				assert.Greater(t, slices.Max(higher), a.Threshold, "something higher was told")
			case ReasonThresholdAdded:
				assert.Contains(t, r.added, a.Threshold)
			case ReasonCarriedOver:
				assert.Contains(t, c.Told, a.Threshold)
			case ReasonBackfill:
				assert.Equal(t, store.First, kind)
			case ReasonPeriodClosed:
				assert.False(t, now.Before(c.PeriodEnd))
			default:
				assert.Fail(t, "a reason that no row can hold", a.Reason)
			}
		}
		assert.True(t, changed || len(crossed) == 0)
	})
}

func TestDecidingAgainYieldsNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r, kind, now := someRules(t), someKind(t), someInstant(t)
		c := someCandidate(t, r)
		d, changed := r.decide(kind, now, &c)
		if !changed {
			return
		}
		c.Marks = d.Marks
		again, changed := r.decide(kind, now, &c)
		assert.False(t, changed, "%v", again)
	})
}

// A whole life: limit and usage move as they like.
func TestAThresholdIsToldAgainOnlyAfterItWasLeft(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := usualRules()
		c := inMay(0, 1000)
		armed := map[int32]bool{80: true, 90: true, 100: true}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			c.TokenLimit = rapid.SampledFrom([]int64{0, 500, 999, 1000, 1001, 2000}).Draw(t, "limit")
			if near := rapid.SampledFrom([]int64{0, 80, 90, 100}).Draw(t, "near"); near > 0 {
				c.TokensUsed = max(c.TokenLimit*near/100+rapid.Int64Range(-9, 9).Draw(t, "off by"), 0)
			} else {
				c.TokensUsed = rapid.Int64Range(0, 3000).Draw(t, "used")
			}
			d, changed := r.decide(store.Window, midMay, &c)
			if changed {
				c.Marks = d.Marks
			}
			for _, a := range d.Alerts {
				assert.True(t, armed[a.Threshold], "%d %% again, which was not left", a.Threshold)
			}
			for _, threshold := range r.thresholds {
				switch {
				case stands(c, threshold):
					assert.False(t, armed[threshold] && !slices.ContainsFunc(d.Alerts, func(a store.Alert) bool { return a.Threshold == threshold }),
						"%d %% was reached and not recorded", threshold)
					armed[threshold] = false
				case clearlyBelow(c, threshold):
					armed[threshold] = true
				}
			}
		}
	})
}
