package oracle

import (
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// A state is how a user stood in a period after some transaction.
type state struct{ used, limit int64 }

// reached and left are the rules of an alert, in percent of the limit.
func (s state) reached(threshold int) bool {
	return s.limit > 0 && s.used >= 0 && s.used*100 >= int64(threshold)*s.limit
}

func (s state) left(threshold int) bool {
	return s.limit <= 0 || s.used <= 0 || s.used*100 <= int64(threshold-1)*s.limit
}

// A period is a user's way through one of theirs.
type period struct {
	start, end time.Time
	states     []state
	// unsure: the last state may have been decided by other rules, or not at all.
	unsure bool
}

// An account is a user's way through the schedule.
type account struct {
	User
	rows    map[uuid.UUID]Row
	used    map[int64]int64   // tokens by period
	periods map[int64]*period // by the start's Unix second
	moved   bool              // the reset day was changed
	limits  int               // changes of the limit
}

// replay follows the changes in their order.
func replay(w *World) map[uuid.UUID]*account {
	accounts := map[uuid.UUID]*account{}
	for id, u := range w.Users {
		accounts[id] = &account{User: u, rows: map[uuid.UUID]Row{}, used: map[int64]int64{}, periods: map[int64]*period{}}
	}
	owner := map[uuid.UUID]uuid.UUID{} // of each row
	for _, c := range slices.SortedFunc(slices.Values(w.Changes), func(a, b Change) int { return int(a.Order - b.Order) }) {
		touched := map[uuid.UUID]map[int64]time.Time{}
		touch := func(a *account, r Row, tokens int64) {
			start := PeriodStart(a.ResetDay, w.Zone, r.At)
			a.used[start.Unix()] += tokens
			if touched[r.User] == nil {
				touched[r.User] = map[int64]time.Time{}
			}
			touched[r.User][start.Unix()] = start
		}
		remove := func(id uuid.UUID) {
			if a := accounts[owner[id]]; a != nil {
				touch(a, a.rows[id], -a.rows[id].Tokens)
				delete(a.rows, id)
			}
			delete(owner, id)
		}
		put := func(r Row) {
			if a := accounts[r.User]; a != nil {
				a.rows[r.ID], owner[r.ID] = r, r.User
				touch(a, r, r.Tokens)
			}
		}
		if c.Truncate {
			for _, id := range slices.Collect(maps.Keys(owner)) {
				remove(id)
			}
		}
		for _, r := range c.Insert {
			put(r)
		}
		for _, r := range c.Update {
			if _, ok := owner[r.ID]; ok {
				remove(r.ID)
				put(r)
			}
		}
		for _, id := range c.Delete {
			if _, ok := owner[id]; ok {
				remove(id)
			}
		}
		for _, id := range c.Gone {
			delete(accounts, id)
		}
		for id, starts := range touched {
			if a := accounts[id]; a != nil {
				for _, start := range starts {
					a.push(w, start)
				}
			}
		}
		for id, limit := range c.Limit {
			if a := accounts[id]; a != nil {
				a.Limit = limit
				a.limits++
				for _, p := range a.periods {
					a.push(w, p.start)
				}
			}
		}
		for id, organization := range c.Organization {
			if a := accounts[id]; a != nil {
				a.Organization = organization
			}
		}
		for id, admin := range c.Admin {
			if a := accounts[id]; a != nil {
				a.Admin = admin
			}
		}
		for id, day := range c.ResetDay {
			if a := accounts[id]; a != nil {
				a.move(w, day)
			}
		}
	}
	return accounts
}

// push notes how the user stands in the period that begins at start.
func (a *account) push(w *World, start time.Time) {
	p := a.periods[start.Unix()]
	if p == nil {
		p = &period{start: start, end: PeriodEnd(a.ResetDay, w.Zone, start), unsure: a.moved}
		a.periods[start.Unix()] = p
	}
	p.states = append(p.states, state{a.used[start.Unix()], a.Limit})
}

// move gives the user other periods. Those before are decided on no more.
func (a *account) move(w *World, day int) {
	a.ResetDay, a.moved = day, true
	for _, p := range a.periods {
		p.unsure = true
	}
	starts := map[int64]time.Time{}
	clear(a.used)
	for _, r := range a.rows {
		start := PeriodStart(day, w.Zone, r.At)
		a.used[start.Unix()] += r.Tokens
		starts[start.Unix()] = start
	}
	for _, start := range starts {
		a.push(w, start)
	}
	if current := a.periods[PeriodStart(day, w.Zone, w.Ended).Unix()]; current != nil {
		current.unsure = false
	}
}
