package plan

import (
	"math/rand/v2"
	"slices"
	"time"
)

// What writers do besides, where organizations have budgets.
const (
	SetBudget    OpKind = "set_budget" // also another limit, reset day or zone
	RemoveBudget OpKind = "remove_budget"
	MoveUser     OpKind = "move_user" // to another organization; what they have used stays
	SetAdmin     OpKind = "set_admin" // or no admin any more
	GiveRow      OpKind = "give_row"  // to another organization, and the same user
)

// An Organization has members.
type Organization struct {
	Doomed bool    // it is its user's own, and may be deleted
	Budget *Budget // from the beginning; nil: none
}

// A Budget is a limit of an organization's.
type Budget struct {
	Limit    int
	ResetDay int
	Zone     string
}

// Organizations that have many members, and the one that uses something once.
const (
	crowded = 3
	quiet   = crowded
)

// Budgets reports whether organizations have any.
func (p *Plan) Budgets() bool { return len(p.Organizations) > 0 }

// makeBudgets gives the organizations of two schedules in five budgets, which
// writers set, change and take away while users move. It draws from numbers of
// its own, so that all other schedules stay as they were.
func (p *Plan) makeBudgets() {
	r := rand.New(rand.NewPCG(p.Seed, 0x627564676574))
	if r.IntN(5) >= 2 {
		return
	}
	for range crowded + 1 {
		p.Organizations = append(p.Organizations, Organization{})
	}
	for i := range p.Users {
		u := &p.Users[i]
		if u.Doomed {
			u.Organization, u.Admin = len(p.Organizations), r.IntN(2) == 0
			p.Organizations = append(p.Organizations, Organization{Doomed: true})
			continue
		}
		u.Organization = r.IntN(crowded)
		u.Admin = u.Organization > 0 && r.IntN(16) == 0 // of the first, at first nobody is
	}
	added := make([][]placedOp, writers)
	p.addQuiet(r, added)
	used := p.usedOf()
	for org := range p.Organizations {
		w := r.IntN(writers) // one, so that these come in their order
		switch {
		case org == quiet:
		case p.Organizations[org].Doomed:
			added[w] = append(added[w], placedOp{r.Float64() / 2, p.setBudget(r, org, p.budget(r, used[org]))})
		default:
			added[w] = append(added[w], p.budgetOps(r, org, used[org])...)
		}
	}
	for w := range writers {
		for range 2 + r.IntN(2) { // not the first, with whose organization all of it is deleted
			op := Op{Kind: MoveUser, After: exponential(r, pauseMean), User: p.owned(r, w, true) + 1 + r.IntN(p.perWriter-1), Organization: r.IntN(crowded)}
			added[w] = append(added[w], placedOp{r.Float64(), op})
		}
		for range 1 + r.IntN(3) {
			op := Op{Kind: SetAdmin, After: exponential(r, pauseMean), User: p.owned(r, w, false), Value: r.IntN(2)}
			added[w] = append(added[w], placedOp{r.Float64(), op})
		}
		for range 2 {
			op := Op{Kind: GiveRow, After: exponential(r, pauseMean), Pick: r.Uint32(), Organization: r.IntN(crowded)}
			added[w] = append(added[w], placedOp{r.Float64(), op})
		}
	}
	for w, ops := range p.Writers {
		for i, op := range ops {
			added[w] = append(added[w], placedOp{(float64(i) + 0.5) / float64(len(ops)), op})
		}
		slices.SortStableFunc(added[w], func(a, b placedOp) int {
			switch {
			case a.at < b.at:
				return -1
			case a.at > b.at:
				return 1
			}
			return 0
		})
		p.Writers[w] = nil
		for _, a := range added[w] {
			p.Writers[w] = append(p.Writers[w], a.op)
		}
	}
}

// A placedOp is one to be done when such a part of the others is done.
type placedOp struct {
	at float64
	op Op
}

// usedOf is what the plan has the members of each organization use in the current
// period.
func (p *Plan) usedOf() []int {
	used := make([]int, len(p.Organizations))
	for _, ops := range p.Writers {
		kept := 1.0
		for i, op := range ops {
			if op.Kind == Truncate {
				kept = float64(i) / float64(len(ops))
				clear(used)
			}
			for _, row := range op.Rows {
				if !op.Undo && row.Age == Current {
					used[p.Users[row.User].Organization] += row.Tokens
				}
			}
		}
		if kept < 1 { // by all writers
			for i := range used {
				used[i] = int(float64(used[i]) * (1 - kept))
			}
		}
	}
	return used
}

// budget is one that is reached, or nearly so, if so much is used.
func (p *Plan) budget(r *rand.Rand, used int) Budget {
	b := Budget{Limit: max(1, int(float64(used)*(0.45+0.9*r.Float64())))}
	b.ResetDay, b.Zone = p.calendar(r)
	if b.ResetDay == p.Rollover && b.Zone == p.Zone {
		b.Limit = max(1, b.Limit/2)
	}
	return b
}

// calendar is one of which a period ends in the middle, or none does. Days that
// not all months have would give two calendars the same period.
func (p *Plan) calendar(r *rand.Rand) (day int, zone string) {
	if p.Rollover > 0 && r.IntN(2) == 0 {
		return p.Rollover, p.Zone
	}
	for {
		if day = 1 + r.IntN(28); day != p.Rollover {
			return day, pick(r, "UTC", "America/Bogota", "Asia/Kolkata", "Europe/Madrid")
		}
	}
}

func (p *Plan) setBudget(r *rand.Rand, org int, b Budget) Op {
	return Op{Kind: SetBudget, After: exponential(r, pauseMean), Organization: org, Budget: &b}
}

// budgetOps are what happens to the budget of an organization, in its order.
func (p *Plan) budgetOps(r *rand.Rand, org, used int) []placedOp {
	b := p.budget(r, used)
	var ops []Op
	if r.IntN(2) == 0 {
		p.Organizations[org].Budget = new(b)
	} else {
		ops = append(ops, p.setBudget(r, org, b))
	}
	scaled := func(percent int) Budget {
		return Budget{max(1, b.Limit*percent/100), b.ResetDay, b.Zone}
	}
	if r.IntN(2) == 0 {
		b = scaled(pick(r, 50, 70, 130, 170))
		ops = append(ops, p.setBudget(r, org, b))
	}
	if r.IntN(3) == 0 {
		before := b
		b.ResetDay, b.Zone = p.calendar(r)
		ops = append(ops, p.setBudget(r, org, b))
		if r.IntN(3) == 0 {
			b = before
			ops = append(ops, p.setBudget(r, org, b))
		}
	}
	if r.IntN(3) == 0 {
		ops = append(ops, Op{Kind: RemoveBudget, After: exponential(r, pauseMean), Organization: org})
		if r.IntN(2) == 0 {
			b = p.budget(r, used)
		}
		if r.IntN(4) == 0 {
			return placedBetween(r, 0.05, 0.95, ops)
		}
		ops = append(ops, p.setBudget(r, org, b))
	}
	placed := placedBetween(r, 0.05, 0.75, ops)
	if r.IntN(3) > 0 { // as it was before, of which nobody is told twice
		higher := p.setBudget(r, org, scaled(pick(r, 101, 150, 300)))
		back := p.setBudget(r, org, b)
		back.After += 100 * time.Millisecond // mostly a tick sees it
		placed = append(placed, placedBetween(r, 0.75, 0.95, []Op{higher, back})...)
	}
	return placed
}

// placedBetween has them done in their order between two parts of the others.
func placedBetween(r *rand.Rand, from, to float64, ops []Op) []placedOp {
	at := make([]float64, len(ops))
	for i := range at {
		at[i] = from + (to-from)*r.Float64()
	}
	slices.Sort(at)
	var placed []placedOp
	for i, op := range ops {
		placed = append(placed, placedOp{at[i], op})
	}
	return placed
}

// addQuiet has the one user of an organization, who is its admin, use something
// once, and the budget crossed by it: what is lost then, no later row brings
// back. Where a period ends it is a row of the next.
func (p *Plan) addQuiet(r *rand.Rand, added [][]placedOp) {
	w := r.IntN(writers)
	b := Budget{Limit: 1000, ResetDay: 1 + r.IntN(28), Zone: p.Zone}
	row := Row{User: len(p.Users), Tokens: 800 + r.IntN(250)}
	use, set := 0.05+0.9*r.Float64(), 0.05+0.5*r.Float64()
	if p.Rollover > 0 {
		b.ResetDay, row.Age = p.Rollover, Next
		use, set = r.Float64()/50, r.Float64()/50+r.Float64()/20 // before it begins, also on a slow machine, and mostly in this order
	}
	p.Users = append(p.Users, User{Owner: w, Limit: 1000, ResetDay: b.ResetDay, Organization: quiet, Admin: true})
	added[w] = append(added[w],
		placedOp{use, Op{Kind: Insert, After: exponential(r, pauseMean), Rows: []Row{row}}},
		placedOp{set, p.setBudget(r, quiet, b)})
}
