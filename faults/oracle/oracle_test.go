package oracle

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestPeriodStart(t *testing.T) {
	bogota, err := time.LoadLocation("America/Bogota") // five hours behind
	require.NoError(t, err)
	for _, c := range []struct {
		day      int
		zone     *time.Location
		at       string
		from, to string
	}{
		{1, time.UTC, "2026-11-27 12:00:00", "2026-11-01 00:00:00", "2026-12-01 00:00:00"},
		{1, time.UTC, "2026-12-01 00:00:00", "2026-12-01 00:00:00", "2027-01-01 00:00:00"},
		{15, time.UTC, "2026-11-14 23:59:59", "2026-10-15 00:00:00", "2026-11-15 00:00:00"},
		{31, time.UTC, "2026-02-28 00:00:00", "2026-02-28 00:00:00", "2026-03-31 00:00:00"},
		{31, time.UTC, "2026-03-30 00:00:00", "2026-02-28 00:00:00", "2026-03-31 00:00:00"},
		{30, time.UTC, "2026-01-29 00:00:00", "2025-12-30 00:00:00", "2026-01-30 00:00:00"},
		{1, bogota, "2026-11-01 04:59:59", "2026-10-01 05:00:00", "2026-11-01 05:00:00"},
	} {
		assert.Equal(t, at(c.from), PeriodStart(c.day, c.zone, at(c.at)).UTC(), "%+v", c)
		assert.Equal(t, at(c.to), PeriodEnd(c.day, c.zone, at(c.at)).UTC(), "%+v", c)
	}
}

// A game is a world of one user with the limit 1000, and what the database holds.
type game struct {
	world World
	db    Database
	user  uuid.UUID
}

var noon = at("2026-11-27 12:00:00")

func newGame() *game {
	g := &game{user: uuid.New()}
	g.world = World{
		Zone: time.UTC, Thresholds: []int{80, 90, 100}, Ended: noon.Add(time.Minute),
		Users: map[uuid.UUID]User{g.user: {Limit: 1000, ResetDay: 1}},
	}
	g.db.Users = map[uuid.UUID]User{g.user: {Limit: 1000, ResetDay: 1}}
	return g
}

func (g *game) change(c Change) {
	c.Order = int64(len(g.world.Changes) + 1)
	g.world.Changes = append(g.world.Changes, c)
}

// use has the user use tokens, which are counted, and returns the row.
func (g *game) use(tokens int64) Row {
	r := Row{ID: uuid.New(), User: g.user, Tokens: tokens, At: noon}
	g.change(Change{Insert: []Row{r}})
	g.db.Rows = append(g.db.Rows, r)
	g.count(tokens)
	return r
}

func (g *game) count(tokens int64) {
	if len(g.db.Totals) == 0 {
		g.db.Totals = []Total{{User: g.user, Start: at("2026-11-01 00:00:00")}}
	}
	g.db.Totals[0].Tokens += tokens
}

// tell adds an alert, with its notification where there is no reason.
func (g *game) tell(threshold int, limit, used int64, reason string) {
	a := Alert{
		ID: uuid.New(), User: g.user, Start: at("2026-11-01 00:00:00"), End: at("2026-12-01 00:00:00"),
		Threshold: threshold, Limit: limit, Used: used, Reason: reason, CreatedAt: noon,
	}
	if reason == "" {
		id := uuid.New()
		a.Sent, a.SentAt, a.Notification = true, &noon, &id
		g.db.Notifications = append(g.db.Notifications, Notification{ID: id, User: g.user, Type: "token_limit_alert", Link: "/", Title: "80", Text: "80"})
	}
	g.db.Alerts = append(g.db.Alerts, a)
}

func (g *game) limit(n int64) {
	g.change(Change{Limit: map[uuid.UUID]int64{g.user: n}})
	g.db.Users[g.user] = User{Limit: n, ResetDay: 1}
}

func TestJudge(t *testing.T) {
	type counts struct{ lab, totals, missed, doubled, wrong, expected, possible int }
	for name, c := range map[string]struct {
		play func(*game)
		want counts
	}{
		"all is right":         {func(g *game) { g.use(850); g.tell(80, 1000, 850, "") }, counts{expected: 1}},
		"a jump":               {func(g *game) { g.use(950); g.tell(80, 1000, 950, "superseded"); g.tell(90, 1000, 950, "") }, counts{expected: 2}},
		"the alert is missing": {func(g *game) { g.use(850) }, counts{missed: 1, expected: 1}},
		"nobody was told of a jump": {func(g *game) {
			g.use(950)
			g.tell(80, 1000, 950, "superseded")
			g.tell(90, 1000, 950, "superseded")
		}, counts{wrong: 2, expected: 2}},
		"the total is wrong":   {func(g *game) { g.use(700); g.count(1) }, counts{totals: 1}},
		"a row is unknown":     {func(g *game) { g.use(10); g.world.Changes = nil }, counts{lab: 2}},
		"an alert for nothing": {func(g *game) { g.use(700); g.tell(80, 1000, 800, "") }, counts{wrong: 2}},
		"told twice": {func(g *game) {
			g.use(850)
			g.tell(80, 1000, 850, "")
			g.tell(80, 1000, 850, "")
		}, counts{doubled: 1, expected: 1}},
		"a notification of no alert": {func(g *game) {
			g.use(850)
			g.tell(80, 1000, 850, "")
			g.db.Notifications = append(g.db.Notifications, Notification{ID: uuid.New(), User: g.user})
		}, counts{doubled: 1, expected: 1}},
		"an alert whose notification is not there": {func(g *game) {
			g.use(850)
			g.tell(80, 1000, 850, "")
			g.db.Notifications = nil
		}, counts{missed: 1, expected: 1}},
		"more tokens than there ever were": {func(g *game) { g.use(850); g.tell(80, 1000, 860, "") }, counts{wrong: 1, expected: 1}},
		"a crossing that was undone": {func(g *game) {
			r := g.use(850)
			g.change(Change{Delete: []uuid.UUID{r.ID}})
			g.db.Rows = nil
			g.count(-850)
		}, counts{possible: 1}},
		"a limit that was raised by a hair": {func(g *game) { // told under the old one or the new
			g.use(850)
			g.limit(1010)
			g.tell(80, 1010, 850, "")
		}, counts{possible: 2}},
		"a limit that was raised far": {func(g *game) { g.use(850); g.limit(10000) }, counts{possible: 1}},
		"a limit that was lowered": {func(g *game) {
			g.use(450)
			g.limit(500)
			g.tell(80, 500, 450, "superseded")
			g.tell(90, 500, 450, "")
		}, counts{expected: 2}},
		"told after the period had ended": {func(g *game) {
			g.use(850)
			g.tell(80, 1000, 850, "")
			late := at("2026-12-01 00:00:01")
			g.db.Alerts[0].SentAt = &late
		}, counts{wrong: 1, expected: 1}},
		"closed before its end": {func(g *game) { g.use(850); g.tell(80, 1000, 850, "period_closed") }, counts{wrong: 1, expected: 1}},
		"a user who is gone": {func(g *game) {
			g.use(850)
			g.tell(80, 1000, 850, "")
			g.change(Change{Gone: []uuid.UUID{g.user}})
			g.db.Rows, g.db.Totals, g.db.Alerts = nil, nil, nil
			delete(g.db.Users, g.user)
		}, counts{}},
		"a user who is gone and has a total": {func(g *game) {
			g.use(850)
			g.change(Change{Gone: []uuid.UUID{g.user}})
			g.db.Rows = nil
			delete(g.db.Users, g.user)
		}, counts{totals: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGame()
			c.play(g)
			v := Judge(&g.world, &g.db)
			assert.Equal(t, c.want, counts{
				len(v.Laboratory), len(v.Totals), len(v.Missed), len(v.Doubled), len(v.Wrong), v.Expected, v.Possible,
			}, "%v", v.Faults())
		})
	}
}

// What must exist is what exists after every choice of states that a tick may
// have seen: here all of them are tried.
func TestWhatIsUnavoidable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		states := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) state {
			return state{used: rapid.Int64Range(76, 84).Draw(t, "used"), limit: rapid.SampledFrom([]int64{0, 98, 100, 103}).Draw(t, "limit")}
		}), 1, 8).Draw(t, "states")
		const threshold = 80
		limit := rapid.SampledFrom([]int64{98, 100, 103}).Draw(t, "key")
		always := true
		for seen := range 1 << (len(states) - 1) {
			mark, written := false, false
			for i, s := range states {
				if i < len(states)-1 && seen>>i&1 == 0 {
					continue
				}
				switch {
				case s.reached(threshold) && !mark:
					mark = true
					written = written || s.limit == limit
				case s.left(threshold):
					mark = false
				}
			}
			always = always && written
		}
		p := period{states: states}
		if got := p.unavoidable(threshold, limit); got != always {
			t.Fatal(fmt.Sprintf("unavoidable(%d of %d) is %t after %v", threshold, limit, got, states))
		}
	})
}
