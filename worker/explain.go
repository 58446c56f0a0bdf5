package worker

import (
	"math"
	"math/big"
	"slices"
	"time"

	"tokenalert/store"
)

// ThresholdState is what became of a threshold in a period.
type ThresholdState string

// The states, from what is settled to what is to come.
const (
	StateTold       ThresholdState = "told"
	StateRecorded   ThresholdState = "recorded"    // and not told, for a Reason
	StateMarked     ThresholdState = "marked"      // dealt with, without an alert
	StateUndecided  ThresholdState = "undecided"   // the total reaches it; no tick has decided
	StateUncounted  ThresholdState = "uncounted"   // what waits to be counted reaches it
	StateNotReached ThresholdState = "not_reached" // or cannot be, for want of a limit
)

// A ThresholdVerdict says what became of one threshold, and why.
type ThresholdVerdict struct {
	Threshold int32          `json:"threshold"` // percent
	InForce   bool           `json:"in_force"`  // among those of the settings, or of a policy
	State     ThresholdState `json:"state"`
	Reason    Reason         `json:"reason,omitempty"`
	At        *time.Time     `json:"at,omitempty"`             // when it was told or recorded
	Missing   int64          `json:"tokens_missing,omitempty"` // until it is reached
	Sentence  string         `json:"sentence"`
}

// An Explanation says why a user was told, or was not. Sentences are for people
// and may be reworded; states and reasons are for programs.
type Explanation struct {
	Answer   string             `json:"answer"`     // in one sentence
	Current  []ThresholdVerdict `json:"thresholds"` // in the current period
	Previous []ThresholdVerdict `json:"previous_thresholds"`
	Notes    []string           `json:"notes"` // what else to know, the gravest first
}

// Explain judges what the database knows of a user. It is pure.
func Explain(a store.Account) Explanation {
	v := view{a}
	e := Explanation{Current: []ThresholdVerdict{}, Previous: []ThresholdVerdict{}}
	if a.Current != nil {
		for _, t := range v.thresholds(a.Current) {
			e.Current = append(e.Current, v.current(t))
		}
		if a.Previous.TickID != nil || v.hasAlerts(a.Previous) {
			for _, t := range v.thresholds(a.Previous) {
				e.Previous = append(e.Previous, v.previous(t))
			}
		}
	}
	e.Answer = v.answer(e.Current)
	e.Notes = v.notes(e.Current)
	return e
}

// view is an account as it is looked at.
type view struct{ store.Account }

// limit is 0 where there is none.
func (v view) limit() int64 {
	if v.TokenLimit == nil {
		return 0
	}
	return max(*v.TokenLimit, 0)
}

// thresholds are those in force, and those that alerts of the period are about.
func (v view) thresholds(p *store.AccountPeriod) []int32 {
	thresholds := slices.Clone(v.Thresholds())
	for _, al := range v.Alerts {
		if of(al, p) {
			thresholds = append(thresholds, al.Threshold)
		}
	}
	slices.Sort(thresholds)
	return slices.Compact(thresholds)
}

// of reports whether an alert is kept under this very period.
func of(al store.AccountAlert, p *store.AccountPeriod) bool {
	return al.PeriodStart != nil && al.PeriodStart.Equal(p.Start)
}

func (v view) hasAlerts(p *store.AccountPeriod) bool {
	return slices.ContainsFunc(v.Alerts, func(al store.AccountAlert) bool { return of(al, p) })
}

// alert returns the alert about a threshold under the limit of today, and the
// last one under another limit.
func (v view) alert(p *store.AccountPeriod, threshold int32) (same, other *store.AccountAlert) {
	for i := range v.Alerts {
		al := &v.Alerts[i]
		if !of(*al, p) || al.Threshold != threshold {
			continue
		}
		if al.TokenLimit != nil && *al.TokenLimit == v.limit() {
			same = al
		} else if other == nil || al.Sent || !other.Sent {
			other = al
		}
	}
	return same, other
}

// current judges a threshold of the current period.
func (v view) current(threshold int32) ThresholdVerdict {
	used, limit := v.Current.TokensUsed, v.limit()
	verdict := ThresholdVerdict{Threshold: threshold, InForce: slices.Contains(v.Thresholds(), threshold)}
	same, other := v.alert(v.Current, threshold)
	marked := slices.Contains(v.Current.Marks, threshold)
	switch {
	case same != nil:
		verdict.fromAlert(*same)
		verdict.Sentence = v.alertSentence(*same)
		if !reached(used, limit, threshold) {
			verdict.Sentence += "; usage has since fallen to " + percent(used, limit) + ", and under this limit nobody is told of it again in this period"
		}
	case limit == 0 && other != nil:
		verdict.fromAlert(*other)
		verdict.Sentence = v.alertSentence(*other) + v.underLimit(*other) + "; there is no limit now"
	case limit == 0:
		verdict.State, verdict.Sentence = StateNotReached, "cannot be reached: there is no limit"
	case marked && other != nil:
		verdict.fromAlert(*other)
		verdict.Sentence = v.alertSentence(*other) + v.underLimit(*other) + "; the limit has changed since, but usage never stood a whole percentage point below, so it is not told again"
	case marked:
		verdict.State = StateMarked
		verdict.Sentence = "marked as dealt with, but there is no alert of it: somebody deleted the row from token_limit_alerts"
	case reached(used, limit, threshold):
		verdict.State, verdict.Sentence = StateUndecided, "reached, and not yet decided: "+v.waitsFor()
	case reached(v.expected(), limit, threshold):
		verdict.State = StateUncounted
		verdict.Sentence = "about to be reached, at " + percent(v.expected(), limit) + ", by what waits to be counted: " + v.waitsFor()
		verdict.Missing = missing(used, limit, threshold)
	default:
		verdict.State, verdict.Missing = StateNotReached, missing(used, limit, threshold)
		verdict.Sentence = "not reached: " + tokens(verdict.Missing) + " away"
		if other != nil {
			verdict.Sentence += " (" + v.alertSentence(*other) + v.underLimit(*other) + ")"
		}
	}
	if !verdict.InForce {
		verdict.Sentence += "; it is no longer among the thresholds in force"
	}
	return verdict
}

// previous judges a threshold of the period that has ended, whose limit may
// have been another.
func (v view) previous(threshold int32) ThresholdVerdict {
	verdict := ThresholdVerdict{Threshold: threshold, InForce: slices.Contains(v.Thresholds(), threshold)}
	same, other := v.alert(v.Previous, threshold)
	if same == nil || other != nil && other.Sent && !same.Sent {
		same = other
	}
	switch {
	case same != nil:
		verdict.fromAlert(*same)
		verdict.Sentence = v.alertSentence(*same) + v.underLimit(*same)
	case slices.Contains(v.Previous.Marks, threshold):
		verdict.State = StateMarked
		verdict.Sentence = "reached, as a full count found when the period had ended already: nobody is told of the past"
	case reached(v.Previous.TokensUsed, v.limit(), threshold):
		verdict.State = StateNotReached
		verdict.Sentence = "not reached under the limit that there was; it would be under that of today"
	default:
		verdict.State, verdict.Sentence = StateNotReached, "not reached"
	}
	return verdict
}

func (t *ThresholdVerdict) fromAlert(al store.AccountAlert) {
	t.State, t.At = StateTold, al.SentAt
	if !al.Sent {
		t.State, t.At, t.Reason = StateRecorded, al.CreatedAt, Reason(al.Reason)
	}
}

// expected is what the current period's total will be when what waits is
// counted.
func (v view) expected() int64 {
	if v.LastTick == nil { // the next tick counts everything anew
		return v.Uncounted.CurrentTokens
	}
	used := v.Current.TokensUsed
	if v.recounts() && v.Current.RowsAddUpTo != nil {
		used = *v.Current.RowsAddUpTo
	}
	return saturated(new(big.Int).Add(big.NewInt(used), big.NewInt(v.Uncounted.CurrentTokens)))
}

// recounts reports whether tokens are to be counted anew, so that the total may
// differ from the rows and rightly so.
func (v view) recounts() bool {
	return slices.ContainsFunc(v.Pending, func(p store.Pending) bool { return p.Counts && (p.Due || p.Everybody) })
}

// differs reports whether the total is not what the rows add up to, and nothing
// that waits says why.
func (v view) differs() bool {
	return v.Current != nil && v.Current.RowsAddUpTo != nil && *v.Current.RowsAddUpTo != v.Current.TokensUsed &&
		!v.recounts() && !v.OtherCluster
}

// told returns the alert that was last told within the current period, under
// whatever limit or period, by the host itself too.
func (v view) told() *store.AccountAlert {
	var last *store.AccountAlert
	for i := range v.Alerts {
		al := &v.Alerts[i]
		if !al.Sent || al.SentAt == nil || al.SentAt.Before(v.Current.Start) || !al.SentAt.Before(v.Current.End) {
			continue
		}
		if last == nil || !al.SentAt.Before(*last.SentAt) {
			last = al
		}
	}
	return last
}

// missing is how many tokens are missing until usage reaches the threshold:
// the lowest n with (used + n) * 100 >= threshold * limit.
func missing(used, limit int64, threshold int32) int64 {
	n := new(big.Int).Mul(big.NewInt(limit), big.NewInt(int64(threshold)))
	n.Add(n, big.NewInt(99)).Div(n, big.NewInt(100))
	return saturated(n.Sub(n, big.NewInt(used)))
}

func saturated(n *big.Int) int64 {
	switch {
	case n.IsInt64():
		return n.Int64()
	case n.Sign() < 0:
		return math.MinInt64
	}
	return math.MaxInt64
}
