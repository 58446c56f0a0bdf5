package oracle

import (
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// A Budget is a limit of an organization's, as it was set.
type Budget struct {
	Limit    int64
	ResetDay int
	Zone     *time.Location
	At       time.Time // by the database's clock, in the transaction that set it
}

func (b *Budget) start(at time.Time) time.Time { return PeriodStart(b.ResetDay, b.Zone, at) }

func (b *Budget) sameCalendar(o *Budget) bool {
	return b.ResetDay == o.ResetDay && b.Zone.String() == o.Zone.String()
}

// A BudgetInForce is a row of budgets.
type BudgetInForce struct {
	Organization uuid.UUID
	Limit        int64
	ResetDay     int
	Zone         string
	Since        time.Time
	Counted      bool
}

// A Share is what a user has used of a budget.
type Share struct {
	Organization, User uuid.UUID
	Start              time.Time
	Tokens             int64
}

// A BudgetTotal is what all have.
type BudgetTotal struct {
	Organization uuid.UUID
	Start        time.Time
	Tokens       int64
}

// A BudgetAlert is a row of budget_alerts.
type BudgetAlert struct {
	ID, Organization uuid.UUID
	Start            time.Time
	Threshold        int
	Limit, Used      int64
	Sent             bool
	CreatedAt        time.Time
	Reason           string
	Notification     uuid.UUID
	Admins           int      // told
	Channels         []string // as of an Alert
}

// noticeOf is the id of the notification that tells an admin, and keyOf that of
// an e-mail.
func (a *BudgetAlert) noticeOf(admin uuid.UUID) uuid.UUID {
	return uuid.NewSHA1(a.Notification, admin[:])
}
func (a *BudgetAlert) keyOf(admin uuid.UUID) uuid.UUID { return uuid.NewSHA1(a.ID, admin[:]) }

// A ledger is an organization's way through the schedule.
type ledger struct {
	rows    map[uuid.UUID]Row
	budget  *Budget // nil: none is in force
	last    *Budget // that was, or is
	since   time.Time
	used    map[int64]int64   // by period, since then
	periods map[int64]*period // of all calendars; those that are not in force are unsure
	moved   bool              // there was another calendar
	changes int               // of the budget
}

// A council says who the admins of each organization are from some time on.
type council struct {
	from   time.Time
	admins map[uuid.UUID]map[uuid.UUID]bool
}

// ledgers are those of all organizations, and their admins.
type ledgers struct {
	of       map[uuid.UUID]*ledger
	councils []council
}

// replayBudgets follows the changes in their order, which is that of their commits.
func replayBudgets(w *World) *ledgers {
	ls := &ledgers{of: map[uuid.UUID]*ledger{}}
	if len(w.Budgets) == 0 && !slices.ContainsFunc(w.Changes, func(c Change) bool { return len(c.Budget) > 0 }) {
		return ls
	}
	users := maps.Clone(w.Users)
	ls.convene(time.Time{}, users)
	for id, b := range w.Budgets {
		ls.ledger(id).set(&b)
		ls.ledger(id).changes = 0
	}
	rows := map[uuid.UUID]Row{}
	for _, c := range slices.SortedFunc(slices.Values(w.Changes), func(a, b Change) int { return int(a.Order - b.Order) }) {
		touched := map[uuid.UUID]map[int64]time.Time{}
		touch := func(r Row, sign int64) {
			l := ls.ledger(r.Organization)
			if sign > 0 {
				l.rows[r.ID] = r
			} else {
				delete(l.rows, r.ID)
			}
			start, counts := l.add(r, sign)
			if counts {
				if touched[r.Organization] == nil {
					touched[r.Organization] = map[int64]time.Time{}
				}
				touched[r.Organization][start.Unix()] = start
			}
		}
		remove := func(id uuid.UUID) {
			if r, ok := rows[id]; ok {
				touch(r, -1)
				delete(rows, id)
			}
		}
		put := func(r Row) {
			if _, ok := users[r.User]; ok {
				rows[r.ID] = r
				touch(r, 1)
			}
		}
		if c.Truncate {
			for _, id := range slices.Collect(maps.Keys(rows)) {
				remove(id)
			}
		}
		for _, r := range c.Insert {
			put(r)
		}
		for _, r := range c.Update {
			if _, ok := rows[r.ID]; ok {
				remove(r.ID)
				put(r)
			}
		}
		for _, id := range c.Delete {
			remove(id)
		}
		for _, gone := range c.Gone {
			for _, r := range slices.Collect(maps.Values(rows)) {
				if r.User == gone {
					remove(r.ID)
				}
			}
			delete(users, gone)
		}
		for id, starts := range touched {
			for _, start := range starts {
				ls.of[id].push(start)
			}
		}
		for id, b := range c.Budget {
			ls.ledger(id).set(b)
		}
		if len(c.Organization)+len(c.Admin)+len(c.Gone) > 0 {
			for id, organization := range c.Organization {
				if u, ok := users[id]; ok {
					u.Organization = organization
					users[id] = u
				}
			}
			for id, admin := range c.Admin {
				if u, ok := users[id]; ok {
					u.Admin = admin
					users[id] = u
				}
			}
			ls.convene(c.Done, users)
		}
	}
	return ls
}

func (ls *ledgers) ledger(id uuid.UUID) *ledger {
	if ls.of[id] == nil {
		ls.of[id] = &ledger{rows: map[uuid.UUID]Row{}, used: map[int64]int64{}, periods: map[int64]*period{}}
	}
	return ls.of[id]
}

// convene notes who the admins are.
func (ls *ledgers) convene(from time.Time, users map[uuid.UUID]User) {
	c := council{from, map[uuid.UUID]map[uuid.UUID]bool{}}
	for id, u := range users {
		if u.Admin {
			if c.admins[u.Organization] == nil {
				c.admins[u.Organization] = map[uuid.UUID]bool{}
			}
			c.admins[u.Organization][id] = true
		}
	}
	ls.councils = append(ls.councils, c)
}

// adminsAt are those whom a tick at that time told, as far as can be known: it saw
// what had committed by then, and may have seen some of what came later. all were
// admins throughout, some at some time; nobody is whether there may have been none.
func (ls *ledgers) adminsAt(organization uuid.UUID, at time.Time) (all, some map[uuid.UUID]bool, nobody bool) {
	first := 0
	for i, c := range ls.councils {
		if c.from.Before(at) {
			first = i
		}
	}
	all, some = maps.Clone(ls.councils[first].admins[organization]), map[uuid.UUID]bool{}
	for _, c := range ls.councils[first:] {
		admins := c.admins[organization]
		maps.DeleteFunc(all, func(id uuid.UUID, _ bool) bool { return !admins[id] })
		maps.Copy(some, admins)
		nobody = nobody || len(admins) == 0
	}
	return all, some, nobody
}

// add counts a row of the organization, unless there is no budget, or the row is
// of before it. It returns the period's start.
func (l *ledger) add(r Row, sign int64) (time.Time, bool) {
	if l.budget == nil {
		return time.Time{}, false
	}
	start := l.budget.start(r.At)
	if start.Before(l.since) {
		return start, false
	}
	l.used[start.Unix()] += sign * r.Tokens
	return start, true
}

// push notes how the organization stands in the period that begins at start.
func (l *ledger) push(start time.Time) {
	p := l.periods[start.Unix()]
	if p == nil {
		p = &period{start: start, end: PeriodEnd(l.budget.ResetDay, l.budget.Zone, start)}
		l.periods[start.Unix()] = p
	}
	p.unsure = false
	p.states = append(p.states, state{l.used[start.Unix()], l.budget.Limit})
}

// set puts a budget in force, or none. A period that is not the budget's is
// decided on no more; what it has been through still counts if it comes back.
func (l *ledger) set(b *Budget) {
	l.changes++
	same := b != nil && l.budget != nil && l.budget.sameCalendar(b)
	l.moved = l.moved || b != nil && l.last != nil && !l.last.sameCalendar(b)
	if l.budget = b; b != nil {
		l.last = b
	}
	if same { // another limit
		for _, p := range l.periods {
			if !p.unsure {
				l.push(p.start)
			}
		}
		return
	}
	for _, p := range l.periods {
		p.unsure = true
	}
	clear(l.used)
	if b == nil {
		return
	}
	l.since = b.start(b.At)
	starts := map[int64]time.Time{}
	for _, r := range l.rows {
		if start, counts := l.add(r, 1); counts {
			starts[start.Unix()] = start
		}
	}
	for _, start := range starts {
		l.push(start)
	}
}
