package worker

import (
	"math/bits"
	"time"
)

// paceAfter is how much of a period must have passed before its pace means
// anything. People work by day, and jobs run by night: what was used in less
// than a day is the pace of some hours, and may be many times that of the user.
const paceAfter = 24 * time.Hour

// paceReached is when usage reaches the limit if it goes on as it did since the
// period began:
//
//	pace = tokens used / (now - start of the period)
//	at   = now + (limit - tokens used) / pace
//
// It is the average of the period so far, not of the last hours: that needs no
// more than what the alert row holds, so the same message can be written again
// later, and one long job does not move it much. It reports false where there is
// nothing to foretell: nothing used, the limit reached or none, now outside of
// the period or within its first day, or at not before the period's end. A
// fraction of a nanosecond is rounded up, so that at is after now.
func paceReached(n Notice) (at time.Time, ok bool) {
	if n.TokensUsed <= 0 || n.TokensUsed >= n.TokenLimit || !n.Now.Before(n.PeriodEnd) {
		return time.Time{}, false
	}
	passed := n.Now.Sub(n.PeriodStart)
	if passed < paceAfter {
		return time.Time{}, false
	}
	used, left := uint64(n.TokensUsed), uint64(n.TokenLimit-n.TokensUsed) //nolint:gosec // both are above zero

	high, low := bits.Mul64(uint64(passed), left) // below 2^126
	low, carry := bits.Add64(low, used-1, 0)
	high += carry
	if high >= used {
		return time.Time{}, false // a quotient of more than 64 bits: centuries
	}
	wait, _ := bits.Div64(high, low, used)
	if wait >= uint64(n.PeriodEnd.Sub(n.Now)) { //nolint:gosec // now is before the end
		return time.Time{}, false
	}
	return n.Now.Add(time.Duration(wait)), true //nolint:gosec // less than a Duration, as was just seen
}
