package worker

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"tokenalert/store"
)

// alertKey is the database's unique key of an alert, for one user.
type alertKey struct {
	start     time.Time
	threshold int32
	limit     int64
}

// ledger is the database, in the plainest way: what it keeps between two ticks.
type ledger struct {
	marks map[time.Time][]int32
	rows  map[alertKey]store.Alert // ON CONFLICT DO NOTHING
	sent  map[alertKey]time.Time   // those that were told, and when
}

// toldElsewhere is Candidate.Told: what was told within [start, end) under the
// key of another period and the same limit.
func (l *ledger) toldElsewhere(start, end time.Time, limit int64) []int32 {
	var told []int32
	for k, at := range l.sent {
		if !k.start.Equal(start) && k.limit == limit && !at.Before(start) && at.Before(end) && !slices.Contains(told, k.threshold) {
			told = append(told, k.threshold)
		}
	}
	return told
}

// state is what a tick saw: a total and a limit, at an instant, in a period.
type state struct {
	now, start, end time.Time
	used, limit     int64
}

// hundredths compares used/limit with so many per cent, without a bound on the
// numbers; it is not to be asked without a limit.
func (s state) hundredths(percent int32) int {
	used := new(big.Int).Mul(big.NewInt(s.used), big.NewInt(100))
	return used.Cmp(new(big.Int).Mul(big.NewInt(s.limit), big.NewInt(int64(percent))))
}

func (s state) reached(percent int32) bool { return s.limit > 0 && s.hundredths(percent) >= 0 }

// left is a whole percentage point below.
func (s state) left(percent int32) bool { return s.limit <= 0 || s.hundredths(percent-1) <= 0 }

func someState(t *rapid.T, now time.Time, thresholds []int32) state {
	s := state{now: now, start: time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)}
	if rapid.IntRange(0, 5).Draw(t, "the period before") == 0 {
		s.start = s.start.AddDate(0, -1, 0)
	}
	s.end = s.start.AddDate(0, 1, 0)
	s.limit = rapid.SampledFrom([]int64{-1, 0, 1, 99, 1000, 1000, 1001, 2000, 1 << 31, 1<<63 - 1}).Draw(t, "limit")
	at := new(big.Int).Mul(big.NewInt(s.limit), big.NewInt(int64(rapid.SampledFrom(append([]int32{0, 79, 120}, thresholds...)).Draw(t, "percent"))))
	at.Add(at.Quo(at, big.NewInt(100)), big.NewInt(rapid.Int64Range(-11, 11).Draw(t, "off by")))
	if s.used = 1<<63 - 1; at.IsInt64() {
		s.used = at.Int64()
	}
	return s
}

// Whole lives of a user against the database's unique key: months pass, usage
// and limit move as they like, corrections reach the month before.
func TestALifeAgainstTheUniqueKey(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := usualRules()
		r.thresholds = percentages(1).Draw(t, "thresholds")
		db := ledger{map[time.Time][]int32{}, map[alertKey]store.Alert{}, map[alertKey]time.Time{}}
		// For each period and threshold, the limits of the states seen since it
		// was last left.
		type standing struct {
			start     time.Time
			threshold int32
		}
		since := map[standing][]int64{}
		ids := map[uuid.UUID]alertKey{}
		now := mayBegins
		for range rapid.IntRange(1, 30).Draw(t, "ticks") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(6*24*time.Hour)).Draw(t, "later")))
			s := someState(t, now, r.thresholds)
			kind := rapid.SampledFrom([]store.Kind{store.Window, store.Window, store.Full}).Draw(t, "kind")
			c := inMay(s.used, max(s.limit, 0), db.marks[s.start]...)
			c.PeriodStart, c.PeriodEnd, c.Told = s.start, s.end, db.toldElsewhere(s.start, s.end, s.limit)
			open := now.Before(s.end)

			decisions := r.decideAll(kind, now, []store.Candidate{c})
			require.LessOrEqual(t, len(decisions), 1)
			for _, d := range decisions {
				require.True(t, d.PeriodStart.Equal(s.start))
				db.marks[s.start] = d.Marks
				for _, a := range d.Alerts {
					k := alertKey{d.PeriodStart, a.Threshold, a.TokenLimit}
					if known, ok := ids[a.ID]; ok {
						require.Equal(t, k, known, "two keys have one id")
					}
					ids[a.ID], ids[a.NotificationID] = k, k
					if _, taken := db.rows[k]; taken {
						require.Equal(t, db.rows[k].ID, a.ID, "delivered again, under another id")
						require.Equal(t, db.rows[k].NotificationID, a.NotificationID)
						continue
					}
					db.rows[k] = a
					if a.Reason == "" {
						require.True(t, open, "told in a period that is closed")
						db.sent[k] = now
					}
				}
			}

			stands := []int32{}
			for _, threshold := range r.thresholds {
				at := standing{s.start, threshold}
				switch {
				case s.left(threshold):
					delete(since, at)
				case s.reached(threshold) || since[at] != nil:
					since[at] = append(since[at], s.limit)
				}
				if since[at] != nil {
					stands = append(stands, threshold)
				}
				if !open && kind != store.Window {
					// A full count says nothing of the past.
					continue
				}
				if s.reached(threshold) && !slices.ContainsFunc(since[at], func(limit int64) bool {
					_, recorded := db.rows[alertKey{s.start, threshold, limit}]
					return recorded
				}) && !slices.Contains(c.Marks, threshold) {
					t.Fatalf("%d %% is reached and recorded under none of the limits %v", threshold, since[at])
				}
			}
			slices.Sort(stands)
			require.Equal(t, stands, append([]int32{}, db.marks[s.start]...), "the marks are what stands")
		}
	})
}

// reasons says, one threshold after the other and by the letter of the design,
// what becomes of each that is newly crossed. "told" is at most one.
func reasons(r rules, kind store.Kind, s state, marks, told []int32) map[int32]string {
	said := map[int32]string{}
	someoneHigher := func(threshold int32) bool {
		for _, list := range [][]int32{marks, told} {
			for _, other := range list {
				cleared := !slices.Contains(told, other) && s.left(other)
				if other > threshold && !cleared {
					return true
				}
			}
		}
		for other, what := range said {
			if other > threshold && what == "told" {
				return true
			}
		}
		return false
	}
	for percent := int32(1000); percent >= 1; percent-- {
		if !slices.Contains(r.thresholds, percent) || !s.reached(percent) || slices.Contains(marks, percent) {
			continue
		}
		switch {
		case !s.now.Before(s.end):
			said[percent] = "period_closed"
		case r.backfill && kind == store.First:
			said[percent] = "backfill"
		case slices.Contains(told, percent):
			said[percent] = "carried_over"
		case slices.Contains(r.added, percent):
			said[percent] = "threshold_added"
		case someoneHigher(percent):
			said[percent] = "superseded"
		default:
			said[percent] = "told"
		}
	}
	return said
}

func TestEachCrossingHasTheReasonThatStands(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r, kind, now := someRules(t), someKind(t), someInstant(t)
		c := someCandidate(t, r)
		d, _ := r.decide(kind, now, &c)
		want := reasons(r, kind, state{now, c.PeriodStart, c.PeriodEnd, c.TokensUsed, c.TokenLimit}, c.Marks, c.Told)
		if now.Before(c.PeriodStart) || !now.Before(c.PeriodEnd) && kind != store.Window {
			want = map[int32]string{}
		}
		got := map[int32]string{}
		for _, a := range d.Alerts {
			got[a.Threshold] = a.Reason
			if a.Reason == "" {
				got[a.Threshold] = "told"
			}
		}
		require.Equal(t, want, got)
	})
}

// A tick may hand over its candidates in any order, and one of them twice.
func TestOrderAndDuplicationOfCandidatesDoNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r, kind, now := someRules(t), someKind(t), someInstant(t)
		candidates := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) store.Candidate {
			c := someCandidate(t, r)
			c.UserID[15] = rapid.Byte().Draw(t, "user")
			return c
		}), 0, 8).Draw(t, "candidates")
		alone := map[string]bool{}
		for _, c := range candidates {
			for _, d := range r.decideAll(kind, now, []store.Candidate{c}) {
				alone[fmt.Sprintf("%+v", d)] = true
			}
		}
		before := fmt.Sprintf("%+v", candidates)
		shuffled := rapid.Permutation(slices.Concat(candidates, candidates)).Draw(t, "shuffled")
		together := map[string]bool{}
		for _, d := range r.decideAll(kind, now, shuffled) {
			together[fmt.Sprintf("%+v", d)] = true
		}
		require.Equal(t, alone, together)
		require.Equal(t, before, fmt.Sprintf("%+v", candidates), "a decision changes what it was given")
	})
}

func TestCompareAgreesWithBigNumbers(t *testing.T) {
	t.Parallel()
	number := rapid.OneOf(rapid.Int64Range(0, 1<<63-1), rapid.Int64Range(0, 200), rapid.SampledFrom([]int64{0, 1, 1 << 31, 1 << 32, 1<<63 - 1}))
	rapid.Check(t, func(t *rapid.T) {
		a, x, b, y := number.Draw(t, "a"), number.Draw(t, "x"), number.Draw(t, "b"), number.Draw(t, "y")
		if rapid.Bool().Draw(t, "nearly the same") {
			b, y = x, a
			if y > 0 && rapid.Bool().Draw(t, "but one") {
				y--
			}
		}
		want := new(big.Int).Mul(big.NewInt(a), big.NewInt(x)).Cmp(new(big.Int).Mul(big.NewInt(b), big.NewInt(y)))
		require.Equal(t, want, compare(a, x, b, y))
	})
}

// grouped writes a number with its digits in threes.
func grouped(digits, separator string) string {
	if len(digits) <= 3 {
		return digits
	}
	return grouped(digits[:len(digits)-3], separator) + separator + digits[len(digits)-3:]
}

// Whoever is told reads the tokens, the limit, and the true percentage: rounded
// down to a tenth, and never the threshold in its place.
func TestAMessageGivesTheTruePercentage(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := usualRules()
		lang := rapid.SampledFrom([]Language{Spanish, English, Portuguese}).Draw(t, "language")
		r.words = BuiltInWords(lang)
		c := someCandidate(t, r)
		c.FullName = rapid.SampledFrom([]string{"Ana", "", "100% Ana", "99.9 %", "%d"}).Draw(t, "name")
		d, _ := r.decide(store.Window, midMay, &c)
		for _, a := range d.Alerts {
			if a.Reason != "" {
				assert.Empty(t, a.Title+a.Body, "written for nobody")
				continue
			}
			point, comma := ".", ","
			if lang == English {
				point, comma = ",", "."
			}
			tenths := new(big.Int).Mul(big.NewInt(c.TokensUsed), big.NewInt(1000))
			tenths.Quo(tenths, big.NewInt(c.TokenLimit))
			if !tenths.IsInt64() {
				tenths.SetInt64(1<<63 - 1) // as much as the column and the text hold
			}
			digits := tenths.String()
			if len(digits) == 1 {
				digits = "0" + digits
			}
			percent := grouped(digits[:len(digits)-1], point) + comma + digits[len(digits)-1:] + "%"
			for _, part := range []string{percent, grouped(fmt.Sprint(c.TokensUsed), point), grouped(fmt.Sprint(c.TokenLimit), point)} {
				// As a word of its own, not the end of a longer number.
				if !strings.Contains(a.Body, " "+part) {
					t.Fatalf("no %q in %q", part, a.Body)
				}
			}
			assert.Equal(t, a.Body, strings.ToValidUTF8(a.Body, ""))
		}
	})
}
