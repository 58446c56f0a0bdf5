package worker

import (
	"fmt"

	"tokenalert/store"
)

// waitsFor says why what is reached is not decided.
func (v view) waitsFor() string {
	switch {
	case v.OtherCluster:
		return "the chain of ticks is another cluster's, so run `tokenalert migrate up`"
	case v.Leader == nil && !v.Standby:
		return "nobody leads, so start `tokenalert run`"
	case v.LastTick == nil:
		return "the chain of ticks is empty, and the next tick counts everything"
	}
	for _, p := range v.Pending {
		if p.Everybody {
			return "everybody is about to be counted anew (" + causeWords(p.Cause) + ")"
		}
	}
	for _, p := range v.Pending {
		switch p.Cause {
		case "set_aside":
			return "the data of this user made a statement fail, as the worker's log says (user.set_aside); the user is tried again" + dueWords(p)
		case "held":
			return "the host holds the user's row; the user is looked at again" + dueWords(p)
		}
	}
	for _, p := range v.Pending {
		if p.Due {
			return "a correction is about to be dealt with (" + causeWords(p.Cause) + ")"
		}
	}
	if v.Uncounted.Rows > 0 {
		return fmt.Sprintf("what has committed since tick %d is counted at the next", v.LastTick.ID)
	}
	return "nothing that waits says why (was a trigger switched off when the limit changed?); the user's next row of usage decides it"
}

// notes is what else an administrator is to know.
func (v view) notes(verdicts []ThresholdVerdict) []string {
	notes := []string{}
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if v.OtherCluster {
		note("The chain of ticks was written in another cluster (a restored dump?): no worker ticks until `tokenalert migrate up` begins it anew.")
	}
	switch {
	case v.Standby:
		note("This is a standby: it shows what has arrived, and not who leads.")
	case v.Leader == nil:
		note("Nobody leads: nothing is counted and nobody is told until `tokenalert run` is started. Nothing is lost meanwhile.")
	}
	if v.Settings != nil && v.LastTick == nil {
		note("The chain of ticks is empty: the next tick counts everything.")
	}
	if until := v.MutedUntil(); until != nil {
		note("A policy mutes this user until %s: until then crossings are recorded, and not told.", clock(*until))
	}
	if v.differs() {
		note("The total is %s, and the rows that are counted add up to %s; `tokenalert reconcile` looks at all totals.",
			number(v.Current.TokensUsed), number(*v.Current.RowsAddUpTo))
	}
	for _, p := range v.Pending {
		notes = append(notes, v.pendingNote(p))
	}
	if u := v.Uncounted; u.Rows > 0 {
		note("Not yet counted: %s in %s.", tokens(u.Tokens), rowsOf(u.Rows))
	}
	if v.Unusable > 0 {
		note("Never counted: %s whose created_at is missing, infinite or outside of 2000 to 2100.", rowsOf(v.Unusable))
	}
	for _, p := range v.Ahead {
		note("Dated ahead: %s in the period that begins on %s; they are told when it begins.", tokens(p.TokensUsed), clock(p.Start))
	}
	if v.Current != nil && v.limit() > 0 {
		for _, t := range verdicts {
			if t.State == StateTold {
				note("A threshold is told once in a period under the same limit: a limit that is raised and lowered back, or usage that falls and climbs again, tells nobody twice.")
				break
			}
		}
	}
	return notes
}

func (v view) pendingNote(p store.Pending) string {
	what := "to be decided anew"
	switch {
	case p.Everybody:
		return "Everybody is to be counted anew: " + causeWords(p.Cause) + "."
	case p.Cause == "period_begins":
		what = "to be looked at"
	case p.Counts:
		what = "to be counted anew"
	}
	times := ""
	if p.Rows > 1 {
		times = fmt.Sprintf(" (%s corrections)", number(p.Rows))
	}
	return "The user is " + what + dueWords(p) + ": " + causeWords(p.Cause) + times + "."
}

func dueWords(p store.Pending) string {
	switch {
	case p.Due:
		return " at the next tick"
	case p.DueAt == nil: // at the end of time
		return ""
	}
	return " after " + clock(*p.DueAt)
}

// causeWords are the causes of corrections (see record_correction and the
// worker) in plain words.
func causeWords(cause string) string {
	words, known := map[string]string{
		"usage_changed":   "rows of usage were changed",
		"usage_deleted":   "rows of usage were deleted",
		"usage_truncated": "ai_usage_logs was truncated",
		"taken_over":      "tokenalert was taken down and up again",
		"user_added":      "the user was added",
		"user_deleted":    "the user was deleted",
		"user_changed":    "the reset day or the organization was changed",
		"limit_changed":   "the limit was changed",
		"limits_changed":  "the row in tokenalert.user_limits was changed",
		"period_begins":   "usage was dated ahead, into a period that begins then",
		"held":            "the host held the user's row",
		"set_aside":       "the data of this user made a statement fail",
		"undecided":       "more users crossed at once than one tick tells",
		"reconcile":       "reconcile found that the total differs from the rows",
	}[cause]
	if !known {
		return cause
	}
	return words
}

func rowsOf(n int64) string {
	if n == 1 {
		return "1 row"
	}
	return number(n) + " rows"
}

// CountedBy says in words by which tick a row of usage was counted.
func CountedBy(a store.Account, row store.AccountRow) string {
	switch row.CountedBy {
	case store.CountedByTick:
		return fmt.Sprintf("tick %d (%s, %s, by %s)", row.Tick.ID, row.Tick.Kind, clock(row.Tick.StartedAt), row.Tick.Worker)
	case store.CountedEarlier:
		return fmt.Sprintf("tick %d (%s), or one before it that is no longer kept", row.Tick.ID, clock(row.Tick.StartedAt))
	case store.CountedInFull:
		if row.Tick != nil {
			return fmt.Sprintf("tick %d (%s, %s), as a row older than the chain", row.Tick.ID, row.Tick.Kind, clock(row.Tick.StartedAt))
		}
		return "the full count that began the chain, which the row is older than"
	case store.CountedNotKnown:
		return "not to be known: the chain is another cluster's"
	}
	if a.LastTick != nil && (a.Leader != nil || a.Standby) {
		return fmt.Sprintf("not yet: it committed after tick %d", a.LastTick.ID)
	}
	return "not yet: " + view{a}.waitsFor()
}
