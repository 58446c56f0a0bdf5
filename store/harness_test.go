package store_test

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/internal/pgtest"
	"tokenalert/store"
)

// counter is a migrated site whose ticks a test takes by hand, under the
// runtime role. All its users have the reset day 1, unless a test says
// otherwise, and the zone is UTC.
type counter struct {
	*site
	store   *store.Store
	periods *store.Periods
	slice   int64
	// decisions is how many one tick writes.
	decisions int
	channels  []string // by which the next ticks deliver
	// seen is what the last tick handed to the decision.
	seen []store.Candidate
}

// newCounter has taken its first tick: the chain begins.
func newCounter(t *testing.T, kind host.Kind) *counter {
	t.Helper()
	return counterOn(t, migratedSite(t, kind))
}

func counterOn(t *testing.T, s *site) *counter {
	t.Helper()
	c := &counter{site: s, store: s.runtime(), slice: 100_000, decisions: 1000}
	c.calendar()
	require.Equal(t, store.First, c.count(store.First).Kind)
	return c
}

// calendar works out the periods anew, as after SetNow.
func (c *counter) calendar() {
	c.t.Helper()
	var err error
	c.periods, err = c.store.Periods(c.t.Context(), "UTC")
	require.NoError(c.t, err)
}

func (c *counter) request(kind store.Kind) store.TickRequest {
	return store.TickRequest{
		Kind: kind, Periods: c.periods, Floor: 80, Slice: c.slice, Decisions: c.decisions, Worker: "test",
		IdleTimeout: 10 * time.Second, // the machine may be busy
	}
}

// try ticks once, on whatever store.
func (c *counter) try(s *store.Store, q store.TickRequest) (store.TickResult, error) {
	return s.Tick(c.t.Context(), q, func(_ store.Kind, now time.Time, candidates []store.Candidate) []store.Decision {
		c.seen = candidates
		decisions := tellAt80(now, candidates)
		for _, d := range decisions {
			for i := range d.Alerts {
				if d.Alerts[i].Reason == "" {
					d.Alerts[i].Channels = c.channels
				}
			}
		}
		return decisions
	})
}

// count ticks once and must not fail.
func (c *counter) count(kind store.Kind) store.TickResult {
	c.t.Helper()
	result, err := c.try(c.store, c.request(kind))
	require.NoError(c.t, err)
	return result
}

// tick is a window tick that finds work.
func (c *counter) tick() store.TickResult {
	c.t.Helper()
	result := c.count(store.Window)
	require.True(c.t, result.Work(), "the tick found nothing")
	return result
}

// settle ticks until there is nothing to count, and returns how many it took.
func (c *counter) settle() int {
	c.t.Helper()
	for n, polls := 0, 0; ; {
		result := c.count(store.Window)
		if result.Work() {
			n++
			require.Less(c.t, n, 10_000, "no end of ticks")
			continue
		}
		p, err := c.store.Poll(c.t.Context())
		require.NoError(c.t, err)
		if !p.Work {
			return n
		}
		polls++ // something may have become due in between
		require.Less(c.t, polls, 10, "polls see work that ticks do not")
	}
}

// total is the running total of a user's current period.
func (c *counter) total(user uuid.UUID) int64 {
	c.t.Helper()
	return ask[int64](c.site, `SELECT coalesce((SELECT tokens_used FROM tokenalert.usage_periods
		WHERE user_id = $1 AND period_start <= tokenalert.now() AND tokenalert.now() < period_end
		ORDER BY period_start DESC LIMIT 1), 0)::bigint`, user)
}

// totalAt is the total of a user's period that an instant belongs to, for the
// reset day 1; nil where there is none.
func (c *counter) totalAt(user uuid.UUID, at time.Time) *int64 {
	c.t.Helper()
	return ask[*int64](c.site, `SELECT (SELECT tokens_used::bigint FROM tokenalert.usage_periods
		WHERE user_id = $1 AND period_start = tokenalert.period_start(1, 'UTC', $2))`, user, at)
}

// useAt logs usage with a created_at.
func (c *counter) useAt(user uuid.UUID, tokens int, at any) {
	c.t.Helper()
	c.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens, created_at)
		VALUES ($1, $2, $3, 0, 0, $4)`, user, c.org, tokens, at)
}

// now is the real clock, in the database's precision.
func (c *counter) now() time.Time {
	c.t.Helper()
	return ask[time.Time](c.site, "SELECT now()")
}

// session is a connection of its own, as the owner, beside the site's.
func (c *counter) session() *site {
	c.t.Helper()
	return &site{t: c.t, db: c.db, owner: c.db.ConnAs(c.t, pgtest.Owner), org: c.org}
}

// open opens a store on the site's database with settings of the session.
func (c *counter) open(settings map[string]string) *store.Store {
	c.t.Helper()
	u, err := url.Parse(c.db.URLAs(pgtest.Runtime)) // PgBouncer takes no settings with a connection
	require.NoError(c.t, err)
	query := u.Query()
	for name, value := range settings {
		query.Set(name, value)
	}
	u.RawQuery = query.Encode()
	s, err := store.Open(u.String(), "")
	require.NoError(c.t, err)
	c.t.Cleanup(s.Close)
	return s
}

// lastTick is the newest row of the chain.
func (c *counter) lastTick() (id int64) {
	c.t.Helper()
	return ask[int64](c.site, "SELECT max(id) FROM tokenalert.ticks")
}

// pending is how many corrections wait.
func (c *counter) pending() int {
	c.t.Helper()
	return ask[int](c.site, "SELECT count(*) FROM tokenalert.recounts")
}

// tellAt80 tells whoever stands at 80 percent and has no mark, and clears the
// mark of whoever no longer does.
func tellAt80(now time.Time, candidates []store.Candidate) []store.Decision {
	var decisions []store.Decision
	for _, c := range candidates {
		marked := slices.Contains(c.Marks, 80)
		reached := c.TokenLimit > 0 && float64(c.TokensUsed)*100 >= float64(c.TokenLimit)*80
		if reached == marked {
			continue
		}
		d := store.Decision{UserID: c.UserID, PeriodStart: c.PeriodStart}
		if reached {
			d.Marks = []int32{80}
			key := fmt.Appendf(nil, "%s %d %d", c.UserID, c.PeriodStart.UnixMicro(), c.TokenLimit)
			a := store.Alert{
				ID: uuid.NewSHA1(uuid.NameSpaceOID, key), NotificationID: uuid.NewSHA1(uuid.NameSpaceURL, key), OrganizationID: c.OrganizationID, PeriodEnd: c.PeriodEnd,
				Threshold: 80, TokenLimit: c.TokenLimit, TokensUsed: c.TokensUsed,
				Title: "80 %", Body: c.FullName, Link: "/", Newest: c.Newest,
			}
			if !now.Before(c.PeriodEnd) {
				a.Reason = "period_closed"
			}
			d.Alerts = []store.Alert{a}
		}
		decisions = append(decisions, d)
	}
	return decisions
}
