package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

// A recount in the middle of a catch-up counts what the chain names, not what
// the tick sees: the rest comes with the next tick.
func TestACorrectionWithinABoundedTickDoesNotCountAhead(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 1)
	c.settle()
	for range 5 {
		c.use(user, 10)
	}
	c.exec("UPDATE ai_usage_logs SET tokens_used = 2 WHERE tokens_used = 1")
	c.slice = 3
	first := c.tick()
	assert.True(t, first.Bounded)
	assert.EqualValues(t, 3, first.Rows)
	assert.EqualValues(t, 1, first.Recounts)
	assert.EqualValues(t, 32, c.total(user))
	c.tick()
	assert.EqualValues(t, 52, c.total(user))
	c.requireTotals()
}

// A row that the tick has not reached yet is changed: the old value is never
// counted, the new one once.
func TestACorrectionOfARowAheadOfABoundedTick(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.settle()
	for _, tokens := range []int{1, 2, 3, 4} {
		c.use(user, tokens)
	}
	c.exec("UPDATE ai_usage_logs SET tokens_used = 100 WHERE tokens_used = 4")
	c.exec("DELETE FROM ai_usage_logs WHERE tokens_used = 3")
	c.slice = 1
	c.tick()
	assert.EqualValues(t, 1, c.total(user))
	c.settle()
	assert.EqualValues(t, 103, c.total(user))
	c.requireTotals()
}

func TestAChangedRowIsCountedAnew(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	one, other := c.user(0), c.user(0)
	c.use(one, 100)
	c.use(one, 50)
	c.settle()
	lastMonth := c.now().AddDate(0, 0, -c.now().Day())
	for _, tt := range []struct {
		name       string
		sql        string
		recounts   int64
		one, other int64
		previous   int64 // of one
	}{
		{"more tokens", "UPDATE ai_usage_logs SET tokens_used = 150 WHERE tokens_used = 50", 1, 250, 0, 0},
		{"fewer tokens", "UPDATE ai_usage_logs SET tokens_used = 50 WHERE tokens_used = 150", 1, 150, 0, 0},
		{"another user", "UPDATE ai_usage_logs SET user_id = '$other' WHERE tokens_used = 50", 2, 100, 50, 0},
		{"back again", "UPDATE ai_usage_logs SET user_id = '$one' WHERE tokens_used = 50", 2, 150, 0, 0},
		{"another period", "UPDATE ai_usage_logs SET created_at = '$then' WHERE tokens_used = 50", 2, 100, 0, 50},
		{"deleted", "DELETE FROM ai_usage_logs WHERE tokens_used = 100", 1, 0, 0, 50},
	} {
		c.exec(strings.NewReplacer("$one", one.String(), "$other", other.String(), "$then", lastMonth.Format(time.RFC3339)).Replace(tt.sql))
		result := c.tick()
		assert.Equal(t, tt.recounts, result.Recounts, tt.name)
		assert.Equal(t, tt.one, c.total(one), tt.name)
		assert.Equal(t, tt.other, c.total(other), tt.name)
		if tt.previous != 0 {
			assert.Equal(t, &tt.previous, c.totalAt(one, lastMonth), tt.name)
		}
		assert.Zero(t, c.pending(), tt.name)
		c.requireTotals()
	}
}

func TestWhatChangesNoTotalMakesNoCorrection(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 100)
	old := c.now().AddDate(0, -3, 0)
	c.useAt(user, 7, old)
	c.settle()
	for _, sql := range []string{
		`UPDATE ai_usage_logs SET request_metadata = '{"a": 1}'`,
		"UPDATE ai_usage_logs SET tokens_used = tokens_used",
		"UPDATE users SET xp = xp + 1, full_name = 'Grace Example'",
		"DELETE FROM ai_usage_logs WHERE created_at < now() - interval '33 days'", // a retention job
	} {
		c.exec(sql)
		assert.Zero(t, c.pending(), sql)
	}
	result := c.count(store.Window)
	assert.False(t, result.Work())
	assert.EqualValues(t, 100, c.total(user))
	seven := int64(7)
	assert.Equal(t, &seven, c.totalAt(user, old), "history stays")
}

func TestATruncateNeedsAFullCount(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(100)
	c.use(user, 90)
	c.settle()
	assert.Equal(t, []string{"80 told"}, c.alerts(user))
	c.exec("TRUNCATE ai_usage_logs")
	before := c.lastTick()
	_, err := c.try(c.store, c.request(store.Window))
	require.ErrorIs(t, err, store.ErrNeedsFull)
	assert.Equal(t, before, c.lastTick())
	assert.EqualValues(t, 90, c.total(user))

	result := c.count(store.Full)
	assert.Equal(t, store.Full, result.Kind)
	assert.EqualValues(t, 0, c.total(user))
	assert.Zero(t, c.pending())
	require.Len(t, c.seen, 1, "its mark can clear")
	c.use(user, 5)
	c.tick()
	assert.EqualValues(t, 5, c.total(user))
	c.requireTotals()
}

// A TRUNCATE that the full count did not see asks for another.
func TestAFullCountDealsOnlyWithTheTruncateThatItSees(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.use(user, 10)
	c.settle()
	h := c.hold()
	c.exec("TRUNCATE ai_usage_logs")
	done := h.start(store.Full)
	h.reached()
	c.exec("TRUNCATE ai_usage_logs")
	h.release()
	require.ErrorIs(t, <-done, store.ErrRewritten)
	assert.Equal(t, 2, c.pending())
	c.count(store.Full)
	assert.Zero(t, c.pending())
	assert.Zero(t, c.total(user))
}

func TestADeletedUserLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	gone, stays := c.user(100), c.user(100)
	c.use(gone, 90)
	c.use(stays, 85)
	c.settle()
	require.Equal(t, []string{"80 told"}, c.alerts(gone))
	c.exec("DELETE FROM users WHERE id = $1", gone)
	assert.Empty(t, c.alerts(gone))
	c.settle()
	assert.Zero(t, ask[int](c.site, "SELECT count(*) FROM tokenalert.usage_periods WHERE user_id = $1", gone))
	assert.EqualValues(t, 85, c.total(stays))
	assert.Equal(t, []string{"80 told"}, c.alerts(stays))
	c.requireTotals()
}

func TestUsageOfADeletedUserThatStaysIsCountedAsOfAnybodyUnknown(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.LMS)
	user := c.user(0)
	c.limit(user, 100)
	c.use(user, 70)
	c.settle()
	c.exec("DELETE FROM users WHERE id = $1", user)
	c.exec("DELETE FROM tokenalert.user_limits WHERE user_id = $1", user)
	c.settle()
	assert.EqualValues(t, 70, c.total(user))
	c.use(user, 50)
	c.settle()
	assert.EqualValues(t, 120, c.total(user))
	assert.Empty(t, c.seen)
	assert.Empty(t, c.alerts(user))
	c.requireTotals()
}

// limit sets a limit where the host's users have none.
func (c *counter) limit(user uuid.UUID, tokens int) {
	c.t.Helper()
	c.exec(`INSERT INTO tokenalert.user_limits (user_id, monthly_token_limit) VALUES ($1, $2)
		ON CONFLICT (user_id) DO UPDATE SET monthly_token_limit = EXCLUDED.monthly_token_limit`, user, tokens)
}

func TestUsageBeforeItsUserExistsIsToldOnceTheUserDoes(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.LMS)
	user := uuid.New()
	c.use(user, 90)
	c.tick()
	assert.EqualValues(t, 90, c.total(user))
	assert.Empty(t, c.seen, "nobody is there to be told")
	c.exec("INSERT INTO users (id, organization_id, email, password_hash, full_name) VALUES ($1, $2, 'a@example.org', '-', 'Ada')", user, c.org)
	c.settle()
	assert.Empty(t, c.alerts(user), "without a limit")
	c.limit(user, 100)
	c.settle()
	assert.Equal(t, []string{"80 told"}, c.alerts(user))
	assert.EqualValues(t, 90, c.total(user))
	c.requireTotals()
}

func TestUsageAndLimitBeforeTheirUserExists(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.LMS)
	user := uuid.New()
	c.limit(user, 100)
	c.use(user, 90)
	c.settle()
	assert.Empty(t, c.seen)
	c.exec("INSERT INTO users (id, organization_id, email, password_hash, full_name) VALUES ($1, $2, 'a@example.org', '-', 'Ada')", user, c.org)
	c.settle()
	assert.Equal(t, []string{"80 told"}, c.alerts(user))
}

// A total that nobody could have counted shows that it was not counted anew.
func TestAChangedLimitIsDecidedWithoutCounting(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(1000)
	c.use(user, 500)
	c.settle()
	c.exec("UPDATE tokenalert.usage_periods SET tokens_used = 501")
	c.exec("UPDATE users SET monthly_token_limit = 600")
	result := c.tick()
	assert.EqualValues(t, 1, result.Recounts)
	assert.Zero(t, result.Counted)
	require.Len(t, c.seen, 1)
	assert.EqualValues(t, 501, c.seen[0].TokensUsed)
	assert.EqualValues(t, 600, c.seen[0].TokenLimit)
	assert.Equal(t, []string{"80 told"}, c.alerts(user))

	for _, none := range []any{nil, 0, -1} {
		c.exec("UPDATE users SET monthly_token_limit = $1", none)
		c.tick()
		require.Len(t, c.seen, 1, "the mark can clear")
		assert.Zero(t, c.seen[0].TokenLimit)
		c.exec("UPDATE users SET monthly_token_limit = 600")
		c.tick()
	}
	assert.Equal(t, []string{"80 told"}, c.alerts(user), "the same limit tells nobody twice")
	assert.Equal(t, 1, c.notified(user))
}

func TestAChangedResetDayMovesUsageToItsPeriod(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	// In the middle of a month that is to come, whatever today is, and far from
	// the real clock, by which triggers ask for a recount.
	now := c.now()
	month := time.Date(now.Year(), now.Month()+3, 1, 0, 0, 0, 0, time.UTC)
	c.db.SetNow(t, month.AddDate(0, 0, 20))
	c.calendar()
	user := c.user(0)
	c.useAt(user, 1, month.AddDate(0, 0, 5))
	c.useAt(user, 10, month.AddDate(0, 0, 18))
	c.settle()
	assert.EqualValues(t, 11, c.total(user))
	c.exec("UPDATE users SET token_limit_reset_day = 15")
	c.settle()
	assert.EqualValues(t, 10, c.total(user))
	start := ask[time.Time](c.site, "SELECT period_start FROM tokenalert.usage_periods WHERE tokens_used = 10")
	assert.True(t, start.Equal(month.AddDate(0, 0, 14)), start)
	c.useAt(user, 100, month.AddDate(0, 0, 19))
	c.settle()
	assert.EqualValues(t, 110, c.total(user))

	// The period before has no totals of that user yet: it is counted whole.
	c.useAt(user, 1000, month.AddDate(0, 0, 7))
	c.settle()
	assert.Equal(t, 1001, ask[int](c.site, "SELECT tokens_used::integer FROM tokenalert.usage_periods WHERE period_end = $1", start))
	_, differences := c.reconcile()
	assert.Empty(t, differences)
}

func TestAUserWhoMovesIsToldInTheNewOrganization(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(1000)
	c.use(user, 500)
	c.settle()
	other, err := host.NewOrganization(t.Context(), c.owner, "Other")
	require.NoError(t, err)
	c.exec("UPDATE users SET organization_id = $1", other)
	assert.Equal(t, 1, c.pending())
	c.tick()
	assert.EqualValues(t, 500, c.total(user))
	c.use(user, 400)
	c.tick()
	assert.Equal(t, other, ask[uuid.UUID](c.site, "SELECT organization_id FROM token_limit_alerts"))
}

func TestATruncateLeavesNothingAheadEither(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(100)
	c.use(user, 10)
	c.useAt(user, 85, c.now().AddDate(0, 1, 5))
	c.useAt(user, 85, c.now().AddDate(0, 3, 0))
	c.settle()
	c.exec("TRUNCATE ai_usage_logs")
	c.count(store.Full)
	assert.Zero(t, ask[int](c.site, "SELECT sum(tokens_used)::integer FROM tokenalert.usage_periods"))
}

// What the window adds to a total that is about to be counted anew is no crossing.
func TestACorrectionInTheSameTickAsUsageIsNotToldOf(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	user := s.user(1000)
	s.use(user, 700)
	s.work()
	s.exec("UPDATE ai_usage_logs SET tokens_used = 10 WHERE user_id = $1", user)
	s.use(user, 200)
	s.work()
	assert.Empty(t, s.alerts(user), "210 of 1000 at every tick")
	assert.Zero(t, s.notified(user))
}

// correcting is a window tick that deals with the corrections of so many users.
func (c *counter) correcting(users int64) store.TickResult {
	c.t.Helper()
	q := c.request(store.Window)
	q.Corrected = users
	result, err := c.try(c.store, q)
	require.NoError(c.t, err)
	return result
}

// A user is counted once for all corrections, in whatever order they come.
func TestCorrectionsOfOneUserAreTakenTogether(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	one, other, third := c.user(0), c.user(0), c.user(0)
	for range 20 {
		c.use(one, 1)
		c.use(other, 1)
	}
	c.use(third, 1)
	c.settle()
	c.exec("UPDATE ai_usage_logs SET tokens_used = 2 WHERE tokens_used = 1")
	require.Equal(t, 41, c.pending())

	result := c.correcting(1)
	assert.EqualValues(t, 20, result.Recounts)
	assert.EqualValues(t, 1, result.Corrected)
	assert.True(t, result.Filled)
	assert.EqualValues(t, 40, c.total(one))
	assert.EqualValues(t, 20, c.total(other))
	result = c.correcting(2)
	assert.EqualValues(t, 21, result.Recounts)
	assert.False(t, result.Filled)
	assert.EqualValues(t, 2, c.total(third))
	c.requireTotals()
}

// What a correction has taken away is told to nobody while that waits for its
// turn, also where new usage comes meanwhile.
func TestNobodyIsToldByATotalThatIsToBeCorrected(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	first, user := c.user(1000), c.user(1000)
	c.use(first, 700)
	c.use(user, 700)
	c.settle()
	c.exec("UPDATE ai_usage_logs SET tokens_used = 10")
	c.use(user, 200)
	c.correcting(1)
	assert.EqualValues(t, 900, c.total(user), "the first user's turn")
	assert.Empty(t, c.alerts(user))
	c.use(user, 600)
	c.settle()
	assert.EqualValues(t, 810, c.total(user))
	assert.Equal(t, []string{"80 told"}, c.alerts(user))
	c.requireTotals()
}

// Shares that wait to be counted change nothing of their users.
func TestABudgetThatBeginsHasNobodyWait(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(1000)
	c.use(user, 700)
	for range 10 {
		c.use(c.user(0), 1) // and by chance one of them is counted first
	}
	c.settle()
	c.budget(c.org, 10_000, 1, "UTC")
	c.listed()
	c.use(user, 100)
	assert.True(t, c.correcting(1).Filled)
	assert.Equal(t, []string{"80 told"}, c.alerts(user))
	c.settle()
	c.requireBudgets()
}

func TestNoBudgetIsToldByASumThatIsToBeCorrected(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	first, user := c.user(0), c.user(0)
	c.budget(c.org, 600, 1, "UTC")
	c.calendar()
	c.use(first, 350)
	c.use(user, 350)
	c.begun()
	c.settle()
	c.exec("UPDATE ai_usage_logs SET tokens_used = 10")
	c.use(user, 200)
	seen := 0
	for range 4 {
		c.correcting(1)
		for _, b := range c.ofBudget() {
			assert.EqualValues(t, 220, b.TokensUsed)
			seen++
		}
	}
	assert.Positive(t, seen)
	assert.Zero(t, c.pending())
	c.requireBudgets()
}

// Days 30 and 31 begin the same periods in months of 30 days, and end others: who
// crosses on the day in between is told in the period that they are in.
func TestAChangedResetDayEndsThePeriodThatItBegins(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	year := c.now().Year() + 1
	start := time.Date(year, 11, 30, 0, 0, 0, 0, time.UTC)
	c.db.SetNow(t, start.AddDate(0, 0, 5))
	c.calendar()
	user := c.user(1000)
	c.exec("UPDATE users SET token_limit_reset_day = 30")
	c.useAt(user, 10, start.AddDate(0, 0, 2))
	c.settle()
	c.exec("UPDATE users SET token_limit_reset_day = 31")
	c.settle()
	c.db.SetNow(t, start.AddDate(0, 1, 0).Add(time.Hour))
	c.calendar()
	c.useAt(user, 900, start.AddDate(0, 1, 0).Add(time.Minute))
	c.settle()
	assert.Equal(t, []string{"80 told"}, c.alerts(user))
}
