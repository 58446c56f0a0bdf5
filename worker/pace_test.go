package worker

import (
	"math"
	"math/big"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"tokenalert/store"
)

func TestPaceReached(t *testing.T) {
	t.Parallel()
	const most = math.MaxInt64
	february := time.Date(2027, time.February, 1, 0, 0, 0, 0, time.UTC)
	march := time.Date(2027, time.March, 1, 0, 0, 0, 0, time.UTC)
	havana := zoneOf(t, "America/Havana")
	day := func(d, hour int) time.Time { return time.Date(2026, time.May, d, hour, 0, 0, 0, time.UTC) }
	tests := []struct {
		name            string
		used, limit     int64
		start, now, end time.Time
		want            time.Time // zero: none
	}{
		{"80 of 100 in 10 days", 80, 100, mayBegins, day(11, 0), mayEnds, day(13, 12)},
		{"half in half of 31 days: not before the reset", 50, 100, mayBegins, day(16, 12), mayEnds, time.Time{}},
		{"a little more than half", 51, 101, mayBegins, day(16, 12), mayEnds, mayEnds.Add(-26_258_823_529_411)},
		{"half in half of 28 days", 50, 100, february, february.AddDate(0, 0, 14), march, time.Time{}},
		{"the last instant before the reset", 1_339_200_000_000_000, 2_678_399_999_999_999, mayBegins, day(16, 12), mayEnds, mayEnds.Add(-1)},
		{"the first instant", 80, 100, mayBegins, mayBegins, mayEnds, time.Time{}},
		{"an instant within the first day", 80, 100, mayBegins, mayBegins.Add(paceAfter - 1), mayEnds, time.Time{}},
		{"a day", 80, 100, mayBegins, mayBegins.Add(paceAfter), mayEnds, day(2, 6)},
		{"the last instant", most - 1, most, mayBegins, mayEnds.Add(-1), mayEnds, time.Time{}},
		{"two instants before the end", most - 1, most, mayBegins, mayEnds.Add(-2), mayEnds, mayEnds.Add(-1)},
		{"at the reset", 80, 100, mayBegins, mayEnds, mayEnds, time.Time{}},
		{"after the reset", 80, 100, mayBegins, mayEnds.AddDate(0, 0, 3), mayEnds, time.Time{}},
		{"before the period", 80, 100, mayBegins, mayBegins.Add(-time.Hour), mayEnds, time.Time{}},
		{"long before the period", 80, 100, mayBegins, time.Time{}, mayEnds, time.Time{}},
		{"nothing used", 0, 100, mayBegins, day(11, 0), mayEnds, time.Time{}},
		{"less than nothing", math.MinInt64, most, mayBegins, day(11, 0), mayEnds, time.Time{}},
		{"no limit", 80, 0, mayBegins, day(11, 0), mayEnds, time.Time{}},
		{"limit below zero", -2, -1, mayBegins, day(11, 0), mayEnds, time.Time{}},
		{"at the limit", 100, 100, mayBegins, day(11, 0), mayEnds, time.Time{}},
		{"above the limit", 101, 100, mayBegins, day(11, 0), mayEnds, time.Time{}},
		{"one token of two", 1, 2, mayBegins, day(11, 0), mayEnds, day(21, 0)},
		{"one token of very many", 1, most, mayBegins, day(11, 0), mayEnds, time.Time{}},
		{"very many", most / 5 * 4, most / 5 * 5, mayBegins, day(11, 0), mayEnds, day(13, 12)},
		{"all but one of very many", most - 1, most, mayBegins, day(11, 0), mayEnds, day(11, 0).Add(1)},
		{"nothing known of the period", 80, 100, time.Time{}, time.Time{}, mayEnds, time.Time{}},
		// Havana, 1 November 2026: the clock goes from 1:00 back to midnight, so the
		// month is an hour longer than 30 days.
		{
			"an hour twice", 80, 100, time.Date(2026, time.November, 1, 0, 0, 0, 0, havana), time.Date(2026, time.November, 11, 0, 0, 0, 0, havana),
			time.Date(2026, time.December, 1, 0, 0, 0, 0, havana), time.Date(2026, time.November, 13, 12, 15, 0, 0, havana),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			at, ok := paceReached(Notice{TokensUsed: tt.used, TokenLimit: tt.limit, PeriodStart: tt.start, Now: tt.now, PeriodEnd: tt.end})
			assert.Equal(t, !tt.want.IsZero(), ok)
			assert.True(t, tt.want.Equal(at), "%s, not %s", at, tt.want)
		})
	}
}

func zoneOf(t *testing.T, name string) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation(name)
	require.NoError(t, err)
	return zone
}

// somebody is a user of any limit within any period of a year at most.
func somebody(t *rapid.T) Notice {
	number := rapid.OneOf(rapid.Int64Range(0, 2000), rapid.Int64(), rapid.SampledFrom([]int64{math.MinInt64, -1, 0, 1, math.MaxInt64 - 1, math.MaxInt64}))
	start := time.Unix(rapid.Int64Range(0, 4_000_000_000).Draw(t, "start"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns"))
	length := rapid.Int64Range(1, int64(366*24*time.Hour)).Draw(t, "length")
	n := Notice{
		TokensUsed: number.Draw(t, "used"), TokenLimit: number.Draw(t, "limit"),
		PeriodStart: start, PeriodEnd: start.Add(time.Duration(length)),
	}
	passed := rapid.OneOf(rapid.Int64Range(-1, length+1), rapid.SampledFrom([]int64{0, int64(paceAfter) - 1, int64(paceAfter), length - 1, length})).Draw(t, "passed")
	n.Now = start.Add(time.Duration(passed))
	return n
}

// The formula, in numbers that have no end; and what anybody would expect of it.
func TestPaceIsTheFormula(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := somebody(t)
		at, ok := paceReached(n)
		passed := n.Now.Sub(n.PeriodStart)
		if n.TokensUsed <= 0 || n.TokensUsed >= n.TokenLimit || passed < paceAfter || !n.Now.Before(n.PeriodEnd) {
			require.False(t, ok)
			return
		}
		wait := new(big.Int).Mul(big.NewInt(int64(passed)), new(big.Int).Sub(big.NewInt(n.TokenLimit), big.NewInt(n.TokensUsed)))
		wait.Add(wait, big.NewInt(n.TokensUsed-1))
		wait.Quo(wait, big.NewInt(n.TokensUsed))
		require.Equal(t, wait.Cmp(big.NewInt(int64(n.PeriodEnd.Sub(n.Now)))) < 0, ok)
		if !ok {
			return
		}
		require.Equal(t, wait.Int64(), int64(at.Sub(n.Now)))
		require.True(t, at.After(n.Now) && at.Before(n.PeriodEnd))

		more := n
		more.TokensUsed = rapid.Int64Range(n.TokensUsed, n.TokenLimit-1).Draw(t, "more used")
		sooner, ok := paceReached(more)
		require.True(t, ok, "who uses more reaches it as well")
		require.False(t, sooner.After(at), "and not later")

		later := n
		later.Now = n.Now.Add(time.Duration(rapid.Int64Range(0, int64(at.Sub(n.Now))).Draw(t, "later")))
		postponed, ok := paceReached(later)
		require.False(t, ok && postponed.Before(at), "who pauses does not reach it sooner")
	})
}

func TestRenderPace(t *testing.T) {
	t.Parallel()
	santiago := zoneOf(t, "America/Santiago")
	tests := []struct {
		name       string
		n          Notice
		es, en, pt string
	}{
		{
			"in the middle of the month",
			Notice{PeriodStart: mayBegins, Now: midMay, PeriodEnd: mayEnds},
			"el 80,0% de tu límite de 100. A este ritmo alcanzarás tu límite el 19 de mayo de 2026. Tu límite se renueva",
			"80.0% of your limit of 100. At this pace you will reach your limit on May 19, 2026. Your limit resets",
			"80,0% do seu limite de 100. Neste ritmo, você atingirá seu limite em 19 de maio de 2026. Seu limite será renovado",
		},
		{
			"on the same day",
			Notice{PeriodStart: mayBegins, Now: mayBegins.Add(paceAfter), PeriodEnd: mayEnds},
			"el 2 de mayo de 2026. Tu", "on May 2, 2026. Your", "em 2 de maio de 2026. Seu",
		},
		{
			"the day in the zone",
			Notice{
				PeriodStart: time.Date(2026, time.May, 1, 0, 0, 0, 0, santiago), PeriodEnd: time.Date(2026, time.June, 1, 0, 0, 0, 0, santiago),
				Now: time.Date(2026, time.May, 16, 22, 0, 0, 0, santiago), Zone: santiago, // reached on the 20th at 21:30, in UTC on the 21st
			},
			"el 20 de mayo de 2026. Tu", "on May 20, 2026. Your", "em 20 de maio de 2026. Seu",
		},
		{
			"not before the reset",
			Notice{PeriodStart: mayBegins, Now: mayEnds.Add(-6 * 24 * time.Hour), PeriodEnd: mayEnds},
			"el 80,0% de tu límite de 100. Tu límite se renueva", "80.0% of your limit of 100. Your limit resets", "80,0% do seu limite de 100. Seu limite será",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.n.Threshold, tt.n.TokensUsed, tt.n.TokenLimit = 80, 80, 100
			for fallback, want := range map[Language]string{Spanish: tt.es, English: tt.en, Portuguese: tt.pt} {
				assert.Contains(t, render(tt.n, fallback).Body, want)
			}
			tt.n.TokensUsed = 100
			for _, lang := range languages {
				assert.Empty(t, BuiltInWords(lang).Values(tt.n)["pace"], "at the limit there is none")
			}
		})
	}
}

// To an admin it is not "your limit", in own texts either.
func TestThePaceToldToAnAdmin(t *testing.T) {
	t.Parallel()
	n := Notice{PeriodStart: mayBegins, Now: midMay, PeriodEnd: mayEnds, Threshold: 80, TokensUsed: 80, TokenLimit: 100}
	ofSomebody, ofBudget := n, n
	ofSomebody.About, ofBudget.Budget = new("Ana"), true
	for lang, want := range map[Language]string{
		Spanish:    "A este ritmo se alcanzará el límite el 19 de mayo de 2026.",
		English:    "At this pace the limit will be reached on May 19, 2026.",
		Portuguese: "Neste ritmo, o limite será atingido em 19 de maio de 2026.",
	} {
		assert.Equal(t, want, BuiltInWords(lang).Values(ofSomebody)["pace"])
		assert.Equal(t, want, BuiltInWords(lang).Values(ofBudget)["pace"])
	}
}

// No message foretells the past, nor what comes after the reset; none says 0 %,
// and one token is a token.
func TestMessagesMakeSense(t *testing.T) {
	t.Parallel()
	none := regexp.MustCompile(` 0[.,]0%|\b0 (AI )?tokens?`)
	plural := regexp.MustCompile(`[ ]1 (AI )?tokens|(\d\d|[ ][02-9]) (AI )?token\b`)
	rapid.Check(t, func(t *rapid.T) {
		r := usualRules()
		r.thresholds = percentages(1).Draw(t, "thresholds")
		r.words = BuiltInWords(rapid.SampledFrom(languages).Draw(t, "language"))
		r.zone = rapid.SampledFrom([]*time.Location{time.UTC, time.FixedZone("", -5*3600), time.FixedZone("", 14*3600)}).Draw(t, "zone")
		c := someCandidate(t, r)
		c.PeriodStart = time.Date(2026, time.Month(rapid.IntRange(1, 12).Draw(t, "month")), rapid.IntRange(1, 28).Draw(t, "day"), 0, 0, 0, 0, r.zone)
		c.PeriodEnd = c.PeriodStart.AddDate(0, 1, 0)
		now := c.PeriodStart.Add(time.Duration(rapid.Int64Range(0, int64(c.PeriodEnd.Sub(c.PeriodStart))-1).Draw(t, "passed")))
		d, _ := r.decide(store.Window, now, &c)
		for _, a := range d.Alerts {
			if a.Reason != "" {
				continue
			}
			require.NotRegexp(t, none, a.Body)
			require.NotRegexp(t, plural, a.Body)
		}
		if at, ok := paceReached(Notice{TokensUsed: c.TokensUsed, TokenLimit: c.TokenLimit, PeriodStart: c.PeriodStart, Now: now, PeriodEnd: c.PeriodEnd}); ok {
			said := at.In(r.zone).Format(time.DateOnly)
			require.GreaterOrEqual(t, said, now.In(r.zone).Format(time.DateOnly))
			require.Less(t, said, c.PeriodEnd.In(r.zone).Format(time.DateOnly))
		}
	})
}
