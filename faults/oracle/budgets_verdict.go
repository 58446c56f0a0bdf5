package oracle

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// BudgetCounts are what was asked of budgets.
type BudgetCounts struct {
	InForce  int // in the end
	Expected int // alerts that must exist
	Possible int // alerts that may exist besides
	Told     int // alerts that say that admins were told
	Notices  int // notifications that told them
}

type budgetPeriod struct {
	organization uuid.UUID
	start        int64
}

func (k budgetPeriod) String() string {
	return fmt.Sprintf("budget of %s, period of %s", k.organization, time.Unix(k.start, 0).UTC().Format(time.DateTime))
}

// checkBudgets looks at which budgets are in force, and compares what is counted of
// them with the rows since their first period.
func (v *Verdict) checkBudgets(ls *ledgers, db *Database) {
	wrong := func(format string, args ...any) { v.Totals = append(v.Totals, fmt.Sprintf(format, args...)) }
	budgets := 0
	for _, l := range ls.of {
		if l.budget != nil {
			budgets++
		}
	}
	if budgets != len(db.Budgets) {
		wrong("%d budgets are in force, of %d", len(db.Budgets), budgets)
	}
	v.Budgets.InForce = budgets
	for _, b := range db.Budgets {
		l := ls.of[b.Organization]
		switch {
		case l == nil || l.budget == nil:
			wrong("a budget of %s is in force that has been taken away", b.Organization)
		case b.Limit != l.budget.Limit || b.ResetDay != l.budget.ResetDay || b.Zone != l.budget.Zone.String() || !b.Since.Equal(l.since):
			wrong("budget of %s: %+v is in force, and %+v was set, of periods since %s", b.Organization, b, *l.budget, l.since)
		case !b.Counted:
			wrong("budget of %s: what was used before is not counted", b.Organization)
		}
	}

	type share struct {
		budgetPeriod
		user uuid.UUID
	}
	// counts is whether a total is one of a budget in force: not history, nor of
	// another calendar.
	counts := func(k budgetPeriod) bool {
		l, start := ls.of[k.organization], time.Unix(k.start, 0)
		return l != nil && l.budget != nil && !start.Before(l.since) && l.budget.start(start).Equal(start)
	}
	actual, actualSums := map[share]int64{}, map[budgetPeriod]int64{}
	for _, r := range db.Rows {
		if l := ls.of[r.Organization]; l != nil && l.budget != nil {
			k := budgetPeriod{r.Organization, l.budget.start(r.At).Unix()}
			if counts(k) {
				actual[share{k, r.User}] += r.Tokens
				actualSums[k] += r.Tokens
			}
		}
	}
	shared := map[budgetPeriod]int64{} // also of those that are history
	for _, s := range db.Shares {
		k := share{budgetPeriod{s.Organization, s.Start.Unix()}, s.User}
		shared[k.budgetPeriod] += s.Tokens
		if counts(k.budgetPeriod) && s.Tokens != actual[k] {
			wrong("%s: the share of user %s is counted as %d, and the rows add up to %d", k, s.User, s.Tokens, actual[k])
		}
		delete(actual, k)
	}
	for k, tokens := range actual {
		if tokens != 0 {
			wrong("%s: the share of user %s is not counted, and the rows add up to %d", k, k.user, tokens)
		}
	}
	for _, t := range db.BudgetTotals {
		k := budgetPeriod{t.Organization, t.Start.Unix()}
		if counts(k) && t.Tokens != actualSums[k] {
			wrong("%s: counted %d, and the rows add up to %d", k, t.Tokens, actualSums[k])
		}
		if t.Tokens != shared[k] { // whatever the budget is now: every statement adds to both
			wrong("%s: counted %d, and the shares add up to %d", k, t.Tokens, shared[k])
		}
		delete(actualSums, k)
		delete(shared, k)
	}
	for _, sums := range []map[budgetPeriod]int64{actualSums, shared} {
		for k, tokens := range sums {
			if tokens != 0 {
				wrong("%s: not counted, and there are %d", k, tokens)
			}
		}
	}
}

// A budgetKey is what an alert of a budget is unique by.
type budgetKey struct {
	budgetPeriod
	threshold int
	limit     int64
}

func (k budgetKey) String() string {
	return fmt.Sprintf("%s, %d %% of %d", k.budgetPeriod, k.threshold, k.limit)
}

func (v *Verdict) checkBudgetAlerts(w *World, ls *ledgers, db *Database) {
	found, judged := map[budgetKey][]BudgetAlert{}, map[budgetKey]bool{}
	for _, a := range db.BudgetAlerts {
		k := budgetKey{budgetPeriod{a.Organization, a.Start.Unix()}, a.Threshold, a.Limit}
		found[k] = append(found[k], a)
	}
	for id, l := range ls.of {
		for start, p := range l.periods {
			for _, threshold := range w.Thresholds {
				for _, limit := range p.limits() {
					k := budgetKey{budgetPeriod{id, start}, threshold, limit}
					judged[k] = true
					// What is used before all is counted is told of when it is, in the
					// period of then; one that was set from the beginning is counted.
					must, may := p.judge(w, l.changes > 0, threshold, limit)
					switch {
					case must:
						v.Budgets.Expected++
						if len(found[k]) == 0 {
							v.Missed = append(v.Missed, fmt.Sprintf("%s: no alert; the states were %v", k, tail(p.states)))
						}
					case may:
						v.Budgets.Possible++
					case len(found[k]) > 0:
						v.Wrong = append(v.Wrong, fmt.Sprintf("%s: an alert at %d tokens, and no state calls for it: %v", k, found[k][0].Used, tail(p.states)))
					}
					if len(found[k]) > 1 {
						v.Doubled = append(v.Doubled, fmt.Sprintf("%s: %d alerts", k, len(found[k])))
					}
				}
			}
		}
	}
	for k, rows := range found {
		if !judged[k] {
			v.Wrong = append(v.Wrong, fmt.Sprintf("%s: an alert for what never was", k))
			continue
		}
		for _, row := range rows {
			v.checkBudgetAlert(ls.of[k.organization], k, row, found)
			v.checkAdmins(w, ls, k, row, db)
		}
	}
}

// checkBudgetAlert looks at what an alert says.
func (v *Verdict) checkBudgetAlert(l *ledger, k budgetKey, row BudgetAlert, found map[budgetKey][]BudgetAlert) {
	wrong := func(format string, args ...any) {
		v.Wrong = append(v.Wrong, k.String()+": "+fmt.Sprintf(format, args...))
	}
	p := l.periods[k.start]
	if !(state{row.Used, row.Limit}).reached(row.Threshold) {
		wrong("an alert at %d tokens", row.Used)
	}
	if highest := slices.MaxFunc(p.states, func(a, b state) int { return int(a.used - b.used) }); row.Used > highest.used {
		wrong("an alert at %d tokens, and there were never more than %d", row.Used, highest.used)
	}
	if row.Sent {
		v.Budgets.Told++
		if row.Reason != "" || !row.CreatedAt.Before(p.end) {
			wrong("told at %s for the reason %q, of a period that ended at %s", row.CreatedAt, row.Reason, p.end)
		}
		return
	}
	if row.Admins != 0 {
		wrong("not told for the reason %q, and %d admins were told", row.Reason, row.Admins)
	}
	switch row.Reason {
	case "superseded":
		for other, rows := range found {
			if other.organization == k.organization && other.threshold > k.threshold && (other.start == k.start || l.moved) &&
				slices.ContainsFunc(rows, func(r BudgetAlert) bool { return r.Sent || r.Reason == "carried_over" || r.Reason == "no_admin" }) {
				return
			}
		}
		wrong("superseded, and nothing higher was told")
	case "period_closed":
		if row.CreatedAt.Before(p.end) {
			wrong("period_closed, and the period went on to %s", p.end)
		}
	case "carried_over":
		if !l.moved {
			wrong("carried_over, and its periods never began otherwise")
		}
	case "no_admin": // see checkAdmins
	default:
		wrong("not told for the reason %q", row.Reason)
	}
}

// checkAdmins looks at who was told. Where admins came and went, who was one when
// the tick looked is known but for what committed after it began.
func (v *Verdict) checkAdmins(w *World, ls *ledgers, k budgetKey, row BudgetAlert, db *Database) {
	wrong := func(format string, args ...any) {
		v.Wrong = append(v.Wrong, k.String()+": "+fmt.Sprintf(format, args...))
	}
	all, some, nobody := ls.adminsAt(k.organization, row.CreatedAt)
	if row.Reason == "no_admin" && !nobody {
		wrong("no_admin, and there were %d throughout", len(all))
	}
	if !row.Sent {
		return
	}
	told, gone := 0, 0
	for id := range w.Users {
		notice := row.noticeOf(id)
		_, there := db.Users[id]
		has := slices.ContainsFunc(db.Notifications, func(n Notification) bool { return n.ID == notice })
		switch {
		case has && !some[id]:
			wrong("user %s was told, who was no admin", id)
		case has:
			told++
		case !there && some[id]: // the notification may have gone with them
			gone++
		case all[id]:
			v.Missed = append(v.Missed, fmt.Sprintf("%s: admin %s was not told", k, id))
		}
	}
	v.Budgets.Notices += told
	if row.Admins < told || row.Admins > told+gone {
		wrong("%d admins were told, it says, and %d were", row.Admins, told)
	}
	if row.Admins == 0 && !w.Webhook {
		wrong("told, and nobody was")
	}
}
