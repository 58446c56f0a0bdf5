package worker

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"tokenalert/store"
)

// answer is the one sentence for whoever asked: was this user told, and what
// comes next.
func (v view) answer(verdicts []ThresholdVerdict) string {
	name := displayName(v.FullName)
	if name == "" {
		name = "User " + v.UserID.String()
	}
	if v.Current == nil {
		return name + " was told of nothing by tokenalert: no worker has ever led on this database, so nothing is counted; start `tokenalert run`."
	}
	var told, next, waits, untold *ThresholdVerdict
	last := v.told()
	for i := range verdicts {
		switch t := &verdicts[i]; t.State {
		case StateUndecided, StateUncounted:
			waits = t // the highest
		case StateNotReached:
			if next == nil && t.InForce && waits == nil {
				next = t
			}
		case StateTold:
			told = t
		case StateRecorded, StateMarked:
			untold = t
		}
	}
	var clauses []string
	switch {
	case last != nil:
		clauses = append(clauses, fmt.Sprintf("%s was told of %d %% on %s%s", name, last.Threshold, clock(*last.SentAt), v.toldElsewhere(*last)))
		if told != nil && !reached(v.Current.TokensUsed, v.limit(), told.Threshold) && v.limit() > 0 {
			clauses = append(clauses, "usage has since fallen to "+percent(v.Current.TokensUsed, v.limit()))
		}
		if untold != nil && untold.Threshold > last.Threshold {
			clauses = append(clauses, fmt.Sprintf("%d %% was not told: %s", untold.Threshold, untold.why()))
		}
	case untold != nil:
		clauses = append(clauses, fmt.Sprintf("%s was not told of %d %%: %s", name, untold.Threshold, untold.why()))
	case waits != nil:
		clauses = append(clauses, name+" has not been told yet")
	case v.limit() > 0:
		clauses = append(clauses, fmt.Sprintf("%s was told of nothing in this period: %s of %s are %s", name,
			number(v.Current.TokensUsed), tokens(v.limit()), percent(v.Current.TokensUsed, v.limit())))
	default:
		clauses = append(clauses, name+" is told of nothing")
	}
	switch {
	case v.limit() == 0:
		clauses = append(clauses, "there is no limit ("+v.noLimit()+")")
	case waits != nil:
		clauses = append(clauses, fmt.Sprintf("%d %% is %s", waits.Threshold, waits.Sentence))
	case next != nil:
		clauses = append(clauses, fmt.Sprintf("the next threshold is %d %%, %s away", next.Threshold, tokens(next.Missing)))
	default:
		clauses = append(clauses, "there is no further threshold")
	}
	return strings.Join(clauses, "; ") + "."
}

// toldElsewhere says what was another when an alert was told.
func (v view) toldElsewhere(al store.AccountAlert) string {
	switch {
	case al.PeriodStart == nil:
		return ", by the host itself"
	case !of(al, v.Current):
		return ", in the period that began on " + clock(*al.PeriodStart)
	}
	return v.underLimit(al)
}

// noLimit is the column and its value.
func (v view) noLimit() string {
	if v.TokenLimit == nil {
		return v.LimitIn + " is not set"
	}
	return fmt.Sprintf("%s is %d", v.LimitIn, *v.TokenLimit)
}

// why is the reason in plain words.
func (t *ThresholdVerdict) why() string {
	if t.State == StateMarked {
		return t.Sentence
	}
	return t.Reason.Words()
}

// Words is the reason for people.
func (r Reason) Words() string {
	switch r {
	case ReasonSuperseded:
		return "a higher threshold was told instead, or had been dealt with"
	case ReasonPeriodClosed:
		return "what reached it was counted when the period had ended"
	case ReasonThresholdAdded:
		return "the settings, or a policy, gained this threshold while usage stood above it already"
	case ReasonCarriedOver:
		return "it had been told within this period already, before the reset day, the zone or the worker changed"
	case ReasonBackfill:
		return "usage stood above it at the very first count, and TOKENALERT_BACKFILL was record"
	case ReasonAlreadyTold:
		return "it had been told under the same limit in the same period"
	case ReasonMuted:
		return "a policy mutes it"
	case ReasonNoAdmin:
		return "the organization has no admin who is not muted, and there is no webhook"
	case ReasonNone:
		return "the host recorded it without telling"
	}
	return string(r)
}

// alertSentence says what an alert row says.
func (v view) alertSentence(al store.AccountAlert) string {
	var b strings.Builder
	if al.Sent {
		b.WriteString("told")
	} else {
		b.WriteString("recorded")
	}
	if at := writtenAt(al); at != nil {
		b.WriteString(" on " + clock(*at))
	}
	if al.TokensUsed != nil && al.TokenLimit != nil {
		fmt.Fprintf(&b, " at %s, %s of %s", percent(*al.TokensUsed, *al.TokenLimit), number(*al.TokensUsed), tokens(*al.TokenLimit))
	}
	if !al.Sent {
		b.WriteString(", not told: " + v.reasonSentence(al))
	}
	return b.String()
}

// writtenAt is when an alert was told or, where it was not, recorded.
func writtenAt(al store.AccountAlert) *time.Time {
	if al.Sent && al.SentAt != nil {
		return al.SentAt
	}
	return al.CreatedAt
}

// reasonSentence names, where it is to be found, what was told in place of an
// alert.
func (v view) reasonSentence(al store.AccountAlert) string {
	for _, o := range v.Alerts {
		if !o.Sent || o.SentAt == nil || al.PeriodStart == nil || al.PeriodEnd == nil {
			continue
		}
		sameKey := o.PeriodStart != nil && o.PeriodStart.Equal(*al.PeriodStart)
		switch Reason(al.Reason) {
		case ReasonSuperseded:
			if sameKey && o.Threshold > al.Threshold && o.TickID != nil && al.TickID != nil && *o.TickID == *al.TickID {
				return fmt.Sprintf("%d %% was reached at once and told instead", o.Threshold)
			}
		case ReasonCarriedOver:
			within := !o.SentAt.Before(*al.PeriodStart) && o.SentAt.Before(*al.PeriodEnd)
			if within && !sameKey && o.Threshold == al.Threshold && o.PeriodStart == nil {
				return "the host itself had told it on " + clock(*o.SentAt)
			}
			if within && !sameKey && o.Threshold == al.Threshold {
				return "it had been told on " + clock(*o.SentAt) + ", before the reset day or the zone changed"
			}
		}
	}
	return Reason(al.Reason).Words()
}

// underLimit names the limit of an alert where it is not that of today.
func (v view) underLimit(al store.AccountAlert) string {
	if al.TokenLimit == nil || *al.TokenLimit == v.limit() {
		return ""
	}
	return ", when the limit was " + number(*al.TokenLimit)
}

// clock writes an instant in UTC.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

var english = message.NewPrinter(language.English)

// number groups digits: 8,120.
func number(n int64) string { return english.Sprintf("%d", n) }

func tokens(n int64) string {
	if n == 1 {
		return "1 token"
	}
	return number(n) + " tokens"
}

// percent is rounded down, so that it reaches a threshold when usage does.
func percent(used, limit int64) string {
	tenths := PercentTenths(used, limit)
	return fmt.Sprintf("%s.%d %%", number(tenths/10), tenths%10)
}
