package oracle

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// A Verdict is what is wrong, a line for each, and how much was asked.
type Verdict struct {
	Laboratory []string // the writers' own account does not agree with the rows
	Totals     []string // wrong totals
	Missed     []string // alerts that must exist and do not, or told nobody
	Doubled    []string // alerts or notifications that are there twice
	Wrong      []string // alerts that must not exist, or say what is not so
	Deliveries []string // alerts that did not arrive, or arrived though they must not

	Rows     int // in the end
	Expected int // alerts that must exist
	Possible int // alerts that may exist besides
	Told     int // alerts that say that the user was told
	Due      int // alerts by each channel that they have to arrive by
	Received int // messages of these and others that arrived
	Repeated int // of them, that had arrived before

	Budgets BudgetCounts
}

// OK reports whether nothing is wrong.
func (v *Verdict) OK() bool { return len(v.Faults()) == 0 }

// Faults lists what is wrong.
func (v *Verdict) Faults() []string {
	var all []string
	for _, part := range []struct {
		name  string
		lines []string
	}{{"laboratory", v.Laboratory}, {"total", v.Totals}, {"missed", v.Missed}, {"doubled", v.Doubled}, {"wrong", v.Wrong}, {"delivery", v.Deliveries}} {
		for _, line := range part.lines {
			all = append(all, part.name+": "+line)
		}
	}
	return all
}

// Judge compares the database with what the writers did.
func Judge(w *World, db *Database) *Verdict {
	accounts := replay(w)
	v := &Verdict{Rows: len(db.Rows)}
	v.checkRows(accounts, db)
	v.checkTotals(w, accounts, db)
	v.checkAlerts(w, accounts, db)
	ledgers := replayBudgets(w)
	v.checkBudgets(ledgers, db)
	v.checkBudgetAlerts(w, ledgers, db)
	v.checkNotifications(w, accounts, db)
	v.checkDeliveries(ledgers, accounts, db)
	v.checkCopies(ledgers, accounts, db)
	return v
}

func (v *Verdict) checkRows(accounts map[uuid.UUID]*account, db *Database) {
	known := 0
	for _, a := range accounts {
		known += len(a.rows)
	}
	if known != len(db.Rows) {
		v.Laboratory = append(v.Laboratory, fmt.Sprintf("%d rows are known and %d there", known, len(db.Rows)))
	}
	for _, r := range db.Rows {
		a := accounts[r.User]
		if a == nil {
			v.Laboratory = append(v.Laboratory, fmt.Sprintf("row %s of an unknown user %s", r.ID, r.User))
			continue
		}
		mine, ok := a.rows[r.ID]
		if !ok || mine.Organization != r.Organization || mine.Tokens != r.Tokens || !mine.At.Equal(r.At) {
			v.Laboratory = append(v.Laboratory, fmt.Sprintf("row %s is %+v and known (%t) as %+v", r.ID, r, ok, mine))
		}
	}
	for id, a := range accounts {
		if u, ok := db.Users[id]; !ok || u != a.User {
			v.Laboratory = append(v.Laboratory, fmt.Sprintf("user %s is %+v (%t) and known as %+v", id, u, ok, a.User))
		}
	}
}

func (v *Verdict) checkTotals(w *World, accounts map[uuid.UUID]*account, db *Database) {
	type key struct {
		user  uuid.UUID
		start int64
	}
	actual := map[key]int64{}
	for _, r := range db.Rows {
		if a := accounts[r.User]; a != nil {
			actual[key{r.User, PeriodStart(a.ResetDay, w.Zone, r.At).Unix()}] += r.Tokens
		}
	}
	counted := map[key]int64{}
	for _, t := range db.Totals {
		counted[key{t.User, t.Start.Unix()}] = t.Tokens
		if accounts[t.User] == nil && t.Tokens != 0 && !w.FullCounts {
			v.Totals = append(v.Totals, fmt.Sprintf("user %s is gone and has a total of %d", t.User, t.Tokens))
		}
	}
	judge := func(k key) {
		a := accounts[k.user]
		if a == nil || actual[k] == counted[k] {
			return
		}
		current := PeriodStart(a.ResetDay, w.Zone, w.Ended).Unix() == k.start
		if a.moved && !current {
			return // another calendar's; history
		}
		v.Totals = append(v.Totals, fmt.Sprintf("user %s, period of %s: counted %d, and the rows add up to %d",
			k.user, time.Unix(k.start, 0).UTC().Format(time.DateTime), counted[k], actual[k]))
	}
	for k := range actual {
		judge(k)
	}
	for k := range counted {
		if _, judged := actual[k]; !judged {
			judge(k)
		}
	}
}

// An alertKey is what an alert is unique by.
type alertKey struct {
	user      uuid.UUID
	start     int64
	threshold int
	limit     int64
}

func (k alertKey) String() string {
	return fmt.Sprintf("user %s, period of %s, %d %% of %d", k.user, time.Unix(k.start, 0).UTC().Format(time.DateTime), k.threshold, k.limit)
}

func (v *Verdict) checkAlerts(w *World, accounts map[uuid.UUID]*account, db *Database) {
	found, judged := map[alertKey][]Alert{}, map[alertKey]bool{}
	for _, a := range db.Alerts {
		k := alertKey{a.User, a.Start.Unix(), a.Threshold, a.Limit}
		found[k] = append(found[k], a)
	}
	for id, a := range accounts {
		for start, p := range a.periods {
			for _, threshold := range w.Thresholds {
				for _, limit := range p.limits() {
					k := alertKey{id, start, threshold, limit}
					must, may := p.judge(w, a.limits > 0, threshold, limit)
					switch {
					case must:
						v.Expected++
						if len(found[k]) == 0 {
							v.Missed = append(v.Missed, fmt.Sprintf("%s: no alert; the states were %v", k, tail(p.states)))
						}
					case may:
						v.Possible++
					case len(found[k]) > 0:
						v.Wrong = append(v.Wrong, fmt.Sprintf("%s: an alert at %d tokens, and no state calls for it: %v", k, found[k][0].Used, tail(p.states)))
					}
					for _, row := range found[k] {
						v.checkAlert(a, p, k, row, found)
					}
					if len(found[k]) > 1 {
						v.Doubled = append(v.Doubled, fmt.Sprintf("%s: %d alerts", k, len(found[k])))
					}
					judged[k] = true
				}
			}
		}
	}
	for k := range found {
		if accounts[k.user] != nil && !judged[k] {
			v.Wrong = append(v.Wrong, fmt.Sprintf("%s: an alert for what never was", k))
		}
	}
}

// checkAlert looks at what an alert says.
func (v *Verdict) checkAlert(a *account, p *period, k alertKey, row Alert, found map[alertKey][]Alert) {
	wrong := func(format string, args ...any) {
		v.Wrong = append(v.Wrong, k.String()+": "+fmt.Sprintf(format, args...))
	}
	if !(state{row.Used, row.Limit}).reached(row.Threshold) {
		wrong("an alert at %d tokens", row.Used)
	}
	if highest := slices.MaxFunc(p.states, func(a, b state) int { return int(a.used - b.used) }); row.Used > highest.used {
		wrong("an alert at %d tokens, and there were never more than %d", row.Used, highest.used)
	}
	if row.Sent {
		v.Told++
		switch {
		case row.SentAt == nil || row.Notification == nil || row.Reason != "":
			wrong("an alert that was sent, at %v, with the notification %v and the reason %q", row.SentAt, row.Notification, row.Reason)
		case !row.SentAt.Before(p.end):
			wrong("told at %s, after the period had ended at %s", row.SentAt, p.end)
		}
		return
	}
	if row.Notification != nil || row.SentAt != nil {
		wrong("an alert that was not sent, with a notification or a time")
	}
	switch row.Reason {
	case "superseded":
		told := func(other alertKey, rows []Alert) bool {
			return other.user == k.user && other.threshold > k.threshold && (other.start == k.start || a.moved) &&
				slices.ContainsFunc(rows, func(r Alert) bool { return r.Sent || r.Reason == "carried_over" })
		}
		for other, rows := range found {
			if told(other, rows) {
				return
			}
		}
		wrong("superseded, and nothing higher was told")
	case "period_closed":
		if row.CreatedAt.Before(p.end) {
			wrong("period_closed, and the period went on to %s", p.end)
		}
	case "carried_over":
		if !a.moved {
			wrong("carried_over, and the reset day never changed")
		}
	default:
		wrong("not told for the reason %q", row.Reason)
	}
}

func (v *Verdict) checkNotifications(w *World, accounts map[uuid.UUID]*account, db *Database) {
	alerts := map[uuid.UUID]int{}
	of := map[uuid.UUID]uuid.UUID{}
	for _, a := range db.Alerts {
		if a.Notification != nil {
			alerts[*a.Notification]++
			of[*a.Notification] = a.User
		}
	}
	for _, a := range db.BudgetAlerts {
		for admin := range w.Users {
			if a.Sent {
				alerts[a.noticeOf(admin)]++
				of[a.noticeOf(admin)] = admin
			}
		}
	}
	seen := map[uuid.UUID]bool{}
	for _, n := range db.Notifications {
		switch {
		case accounts[n.User] == nil: // the alert went with its user
		case seen[n.ID]:
			v.Doubled = append(v.Doubled, fmt.Sprintf("notification %s is there twice", n.ID))
		case alerts[n.ID] == 0:
			v.Doubled = append(v.Doubled, fmt.Sprintf("notification %s of user %s has no alert", n.ID, n.User))
		case alerts[n.ID] > 1:
			v.Doubled = append(v.Doubled, fmt.Sprintf("notification %s has %d alerts", n.ID, alerts[n.ID]))
		case of[n.ID] != n.User, n.Type != "token_limit_alert", n.Link == "", n.Title == "", n.Text == "":
			v.Wrong = append(v.Wrong, fmt.Sprintf("notification %+v of the alert of user %s", n, of[n.ID]))
		}
		seen[n.ID] = true
	}
	for _, a := range db.Alerts {
		if id := a.Notification; id != nil && !seen[*id] {
			v.Missed = append(v.Missed, fmt.Sprintf("alert %s of user %s says that the notification %s told them, which is not there", a.ID, a.User, *id))
		}
	}
}

// tail is as much as a line holds.
func tail(states []state) []state { return states[max(0, len(states)-8):] }
