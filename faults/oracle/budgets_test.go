package oracle

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
)

// A budgetGame is a world of an organization with the budget 1000, a member and
// an admin, both without limits, and another organization; and what the database
// holds.
type budgetGame struct {
	game
	org, other uuid.UUID
	admin      uuid.UUID
}

var november = at("2026-11-01 00:00:00")

func newBudgetGame() *budgetGame {
	g := &budgetGame{game: *newGame(), org: uuid.New(), other: uuid.New(), admin: uuid.New()}
	g.world.Users = map[uuid.UUID]User{
		g.user: {ResetDay: 1, Organization: g.org}, g.admin: {ResetDay: 1, Organization: g.org, Admin: true},
	}
	g.db.Users = map[uuid.UUID]User{g.user: g.world.Users[g.user], g.admin: g.world.Users[g.admin]}
	g.world.Budgets = map[uuid.UUID]Budget{g.org: {Limit: 1000, ResetDay: 1, Zone: time.UTC, At: noon}}
	g.db.Budgets = []BudgetInForce{{g.org, 1000, 1, "UTC", november, true}}
	return g
}

func (g *budgetGame) change(c Change) {
	c.Done = noon.Add(time.Duration(len(g.world.Changes)) * time.Second)
	g.game.change(c)
}

// use has the member use tokens of the organization, which are counted.
func (g *budgetGame) use(tokens int64) Row {
	r := Row{ID: uuid.New(), User: g.user, Organization: g.org, Tokens: tokens, At: noon}
	g.change(Change{Insert: []Row{r}})
	g.db.Rows = append(g.db.Rows, r)
	g.count(tokens)
	g.countOf(g.org, g.user, tokens)
	return r
}

func (g *budgetGame) countOf(organization, user uuid.UUID, tokens int64) {
	i := slices.IndexFunc(g.db.Shares, func(s Share) bool { return s.Organization == organization && s.User == user })
	if i < 0 {
		i = len(g.db.Shares)
		g.db.Shares = append(g.db.Shares, Share{Organization: organization, User: user, Start: november})
	}
	g.db.Shares[i].Tokens += tokens
	i = slices.IndexFunc(g.db.BudgetTotals, func(t BudgetTotal) bool { return t.Organization == organization })
	if i < 0 {
		i = len(g.db.BudgetTotals)
		g.db.BudgetTotals = append(g.db.BudgetTotals, BudgetTotal{Organization: organization, Start: november})
	}
	g.db.BudgetTotals[i].Tokens += tokens
}

// tellAdmins adds an alert, of which these are told where there is no reason.
func (g *budgetGame) tellAdmins(threshold int, limit, used int64, reason string, admins ...uuid.UUID) {
	a := BudgetAlert{
		ID: uuid.New(), Organization: g.org, Start: november, Threshold: threshold, Limit: limit, Used: used,
		Sent: reason == "", CreatedAt: noon.Add(30 * time.Second), Reason: reason, Notification: uuid.New(), Admins: len(admins),
	}
	g.db.BudgetAlerts = append(g.db.BudgetAlerts, a)
	for _, admin := range admins {
		g.db.Notifications = append(g.db.Notifications, Notification{ID: a.noticeOf(admin), User: admin, Type: "token_limit_alert", Link: "/", Title: "80", Text: "80"})
	}
}

func (g *budgetGame) set(b *Budget) { g.change(Change{Budget: map[uuid.UUID]*Budget{g.org: b}}) }

func (g *budgetGame) promote(user uuid.UUID, admin bool) {
	g.change(Change{Admin: map[uuid.UUID]bool{user: admin}})
	u := g.db.Users[user]
	u.Admin = admin
	g.db.Users[user] = u
}

func TestJudgeBudgets(t *testing.T) {
	type counts struct{ lab, totals, missed, doubled, wrong, expected, possible int }
	for name, c := range map[string]struct {
		play func(*budgetGame)
		want counts
	}{
		"all is right": {func(g *budgetGame) { g.use(850); g.tellAdmins(80, 1000, 850, "", g.admin) }, counts{expected: 1}},
		"a jump": {func(g *budgetGame) {
			g.use(950)
			g.tellAdmins(80, 1000, 950, "superseded")
			g.tellAdmins(90, 1000, 950, "", g.admin)
		}, counts{expected: 2}},
		"the alert is missing":      {func(g *budgetGame) { g.use(850) }, counts{missed: 1, expected: 1}},
		"nobody was told of a jump": {func(g *budgetGame) { g.use(850); g.tellAdmins(80, 1000, 850, "superseded") }, counts{wrong: 1, expected: 1}},
		"told twice": {func(g *budgetGame) {
			g.use(850)
			g.tellAdmins(80, 1000, 850, "", g.admin)
			g.tellAdmins(80, 1000, 850, "", g.admin)
		}, counts{doubled: 1, expected: 1}},
		"an admin was not told":      {func(g *budgetGame) { g.use(850); g.tellAdmins(80, 1000, 850, "") }, counts{missed: 1, wrong: 1, expected: 1}},
		"a member was told":          {func(g *budgetGame) { g.use(850); g.tellAdmins(80, 1000, 850, "", g.admin, g.user) }, counts{wrong: 2, expected: 1}},
		"no admin, and there is one": {func(g *budgetGame) { g.use(850); g.tellAdmins(80, 1000, 850, "no_admin") }, counts{wrong: 1, expected: 1}},
		"no admin": {func(g *budgetGame) {
			g.promote(g.admin, false)
			g.use(850)
			g.tellAdmins(80, 1000, 850, "no_admin")
		}, counts{expected: 1}},
		"an admin who came while it was decided": {func(g *budgetGame) { // told or not
			g.use(850)
			for len(g.world.Changes) < 31 {
				g.use(0)
			}
			g.promote(g.user, true)
			g.tellAdmins(80, 1000, 850, "", g.admin)
			g.use(50)
			g.tellAdmins(90, 1000, 900, "", g.admin, g.user)
		}, counts{expected: 2}},
		"the total is wrong":         {func(g *budgetGame) { g.use(700); g.db.BudgetTotals[0].Tokens++ }, counts{totals: 2}}, // also beside the shares
		"a share is wrong":           {func(g *budgetGame) { g.use(700); g.db.Shares[0].Tokens++ }, counts{totals: 2}},
		"a share is not there":       {func(g *budgetGame) { g.use(700); g.db.Shares = nil }, counts{totals: 2}},
		"all is wrong by the same":   {func(g *budgetGame) { g.use(700); g.countOf(g.org, g.user, 1) }, counts{totals: 2}},
		"the budget is not counted":  {func(g *budgetGame) { g.use(700); g.db.Budgets[0].Counted = false }, counts{totals: 1}},
		"the budget is not in force": {func(g *budgetGame) { g.use(700); g.db.Budgets = nil }, counts{totals: 1}},
		"of another period":          {func(g *budgetGame) { g.db.Budgets[0].Since = at("2026-10-01 00:00:00") }, counts{totals: 1}},
		"a row of the other organization": {func(g *budgetGame) {
			r := g.use(850)
			r.Organization = g.other
			g.change(Change{Update: []Row{r}})
			g.db.Rows[0] = r
			g.countOf(g.org, g.user, -850)
		}, counts{possible: 1}},
		"and it is counted still": {func(g *budgetGame) {
			r := g.use(700)
			r.Organization = g.other
			g.change(Change{Update: []Row{r}})
			g.db.Rows[0] = r
		}, counts{totals: 2}},
		"a member who has moved": {func(g *budgetGame) {
			g.use(850)
			g.tellAdmins(80, 1000, 850, "", g.admin)
			g.change(Change{Organization: map[uuid.UUID]uuid.UUID{g.user: g.other}})
			g.db.Users[g.user] = User{ResetDay: 1, Organization: g.other}
		}, counts{expected: 1}},
		"a budget that was taken away": {func(g *budgetGame) { // told before or not
			g.use(850)
			g.set(nil)
			g.db.Budgets = nil
			g.use(100)
			g.db.Shares, g.db.BudgetTotals = nil, nil
		}, counts{possible: 1}},
		"and was set again": {func(g *budgetGame) {
			g.set(nil)
			g.use(850)
			g.set(&Budget{Limit: 1000, ResetDay: 1, Zone: time.UTC, At: noon})
			g.tellAdmins(80, 1000, 850, "", g.admin)
		}, counts{expected: 1}},
		"a higher budget": {func(g *budgetGame) {
			g.use(850)
			g.set(&Budget{Limit: 2000, ResetDay: 1, Zone: time.UTC, At: noon})
			g.db.Budgets[0].Limit = 2000
		}, counts{possible: 1}},
		"another reset day": {func(g *budgetGame) {
			g.use(850)
			g.tellAdmins(80, 1000, 850, "", g.admin)
			g.set(&Budget{Limit: 1000, ResetDay: 20, Zone: time.UTC, At: noon})
			start := at("2026-11-20 00:00:00")
			g.db.Budgets[0].ResetDay, g.db.Budgets[0].Since = 20, start
			g.db.Shares = append(g.db.Shares, Share{g.org, g.user, start, 850})
			g.db.BudgetTotals = append(g.db.BudgetTotals, BudgetTotal{g.org, start, 850})
			g.tellAdmins(80, 1000, 850, "carried_over")
			g.db.BudgetAlerts[1].Start = start
		}, counts{expected: 1, possible: 1}},
		"carried over, and there was no other": {func(g *budgetGame) { g.use(850); g.tellAdmins(80, 1000, 850, "carried_over") }, counts{wrong: 1, expected: 1}},
		"more tokens than there ever were":     {func(g *budgetGame) { g.use(850); g.tellAdmins(80, 1000, 860, "", g.admin) }, counts{wrong: 1, expected: 1}},
		"an alert for what never was": {func(g *budgetGame) {
			g.use(850)
			g.tellAdmins(80, 1000, 850, "", g.admin)
			g.tellAdmins(80, 1100, 900, "", g.admin)
		}, counts{wrong: 1, expected: 1}},
		"an organization that is gone": {func(g *budgetGame) {
			g.use(850)
			g.tellAdmins(80, 1000, 850, "", g.admin)
			g.db.BudgetAlerts[0].CreatedAt = noon // before they were gone
			g.change(Change{Gone: []uuid.UUID{g.user, g.admin}})
			g.db.Rows, g.db.Totals, g.db.Shares, g.db.BudgetTotals, g.db.Notifications = nil, nil, nil, nil, nil
			clear(g.db.Users)
		}, counts{possible: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newBudgetGame()
			c.play(g)
			v := Judge(&g.world, &g.db)
			assert.Equal(t, c.want, counts{
				len(v.Laboratory), len(v.Totals), len(v.Missed), len(v.Doubled), len(v.Wrong), v.Budgets.Expected, v.Budgets.Possible,
			}, "%v", v.Faults())
		})
	}
}

func TestDeliveriesOfBudgets(t *testing.T) {
	type counts struct{ wrong, due, received int }
	for name, c := range map[string]struct {
		channels []string
		play     func(g *budgetGame, a *BudgetAlert, hook, mail Receipt)
		want     counts
	}{
		"all is right": {[]string{"webhook", "email", "notification"}, func(g *budgetGame, _ *BudgetAlert, hook, mail Receipt) {
			g.db.Receipts, g.db.Copies = []Receipt{hook, mail}, g.db.Notifications
		}, counts{due: 3, received: 3}},
		"nothing arrived":   {[]string{"webhook", "email", "notification"}, func(*budgetGame, *BudgetAlert, Receipt, Receipt) {}, counts{wrong: 3, due: 3}},
		"nobody delivers":   {nil, func(*budgetGame, *BudgetAlert, Receipt, Receipt) {}, counts{}},
		"the webhook twice": {[]string{"webhook"}, func(g *budgetGame, _ *BudgetAlert, hook, _ Receipt) { g.db.Receipts = []Receipt{hook, hook} }, counts{wrong: 1, due: 1, received: 2}},
		"a webhook of users": {[]string{"webhook"}, func(g *budgetGame, _ *BudgetAlert, hook, _ Receipt) {
			hook.User = g.admin
			g.db.Receipts = []Receipt{hook}
		}, counts{wrong: 1, due: 1, received: 1}},
		"an e-mail to a member": {[]string{"email"}, func(g *budgetGame, a *BudgetAlert, _, mail Receipt) {
			other := mail
			other.User, other.Alert = g.user, a.keyOf(g.user)
			other.Key = other.Alert.String()
			g.db.Receipts = []Receipt{mail, other}
		}, counts{wrong: 1, due: 1, received: 2}},
		"an admin who is none any more": {[]string{"email"}, func(g *budgetGame, a *BudgetAlert, _, _ Receipt) {
			a.CreatedAt = noon
			g.promote(g.admin, false)
		}, counts{}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newBudgetGame()
			g.world.Webhook = true
			g.use(850)
			g.tellAdmins(80, 1000, 850, "", g.admin)
			a := &g.db.BudgetAlerts[0]
			a.Channels = c.channels
			c.play(g, a, Receipt{Channel: "webhook", Key: a.ID.String(), Alert: a.ID, Accepted: true},
				Receipt{Channel: "email", Key: a.keyOf(g.admin).String(), Alert: a.keyOf(g.admin), User: g.admin, Accepted: true})
			v := Judge(&g.world, &g.db)
			assert.Equal(t, c.want, counts{len(v.Deliveries), v.Due, v.Received}, "%v", v.Faults())
		})
	}
}
