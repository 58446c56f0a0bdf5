package plan

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestEverySortOfThingHappensToBudgets(t *testing.T) {
	budgeted, fromTheBeginning, admins := 0, 0, 0
	ops, again, otherCalendar, ends := map[OpKind]int{}, 0, 0, 0
	for seed := range uint64(200) {
		p := New(seed, FaultKinds)
		if !p.Budgets() {
			for _, w := range p.Writers {
				for _, op := range w {
					assert.NotContains(t, []OpKind{SetBudget, RemoveBudget, MoveUser, SetAdmin, GiveRow}, op.Kind)
				}
			}
			continue
		}
		budgeted++
		for _, u := range p.Users {
			assert.Equal(t, u.Doomed, p.Organizations[u.Organization].Doomed)
			if u.Admin {
				admins++
			}
		}
		last, limits := map[int]Budget{}, map[int]map[Budget]bool{}
		for org, o := range p.Organizations {
			limits[org] = map[Budget]bool{}
			if o.Budget != nil {
				fromTheBeginning++
				last[org] = *o.Budget
				limits[org][*o.Budget] = true
			}
		}
		for _, w := range p.Writers {
			for _, op := range w {
				ops[op.Kind]++
				if op.Kind == MoveUser {
					assert.False(t, p.Users[op.User].Doomed)
				}
				if op.Kind != SetBudget {
					continue
				}
				b := *op.Budget
				before, had := last[op.Organization]
				if had && (before.ResetDay != b.ResetDay || before.Zone != b.Zone) {
					otherCalendar++
				}
				if limits[op.Organization][b] {
					again++
				}
				if p.Rollover > 0 && b.ResetDay == p.Rollover && b.Zone == p.Zone {
					ends++
				}
				last[op.Organization], limits[op.Organization][b] = b, true
				assert.Positive(t, b.Limit)
				assert.LessOrEqual(t, b.ResetDay, 28)
			}
		}
	}
	assert.InDelta(t, 80, budgeted, 25)
	for _, kind := range []OpKind{SetBudget, RemoveBudget, MoveUser, SetAdmin, GiveRow} {
		assert.GreaterOrEqual(t, ops[kind], 30, kind)
	}
	for what, n := range map[string]int{
		"from the beginning": fromTheBeginning, "set as before": again, "another calendar": otherCalendar, "periods that end": ends, "admins": admins,
	} {
		assert.GreaterOrEqual(t, n, 30, what)
	}
}
