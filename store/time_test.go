package store_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

func TestARowWithoutAUsableInstantIsSkippedAndSaid(t *testing.T) {
	t.Parallel()
	ends := []any{
		nil, "infinity", "-infinity", "1999-12-31 23:59:59.999999+00", "2100-01-01 00:00+00",
		"4713-01-01 00:00+00 BC", "294276-12-31 23:59:59.999999+00",
	}
	for _, kind := range []store.Kind{store.Window, store.Full} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.LMS) // where created_at may be NULL
			user := c.user(0)
			c.settle()
			for _, at := range ends {
				c.useAt(user, 1_000_000, at)
			}
			c.use(user, 7)
			result := c.count(kind)
			assert.EqualValues(t, 7, c.total(user))
			assert.Equal(t, 1, ask[int](c.site, "SELECT count(*) FROM tokenalert.usage_periods"))
			if kind == store.Window {
				assert.EqualValues(t, len(ends), result.Skipped)
				assert.EqualValues(t, len(ends)+1, result.Rows)
			}
			assert.Zero(t, c.settle())
			_, differences := c.reconcile()
			assert.Empty(t, differences)

			// Changing and deleting them is nobody's trouble.
			c.exec("UPDATE ai_usage_logs SET tokens_used = 5 WHERE tokens_used = 1000000")
			c.settle()
			c.exec("DELETE FROM ai_usage_logs WHERE tokens_used = 5")
			c.settle()
			assert.EqualValues(t, 7, c.total(user))
			assert.Zero(t, c.pending())
		})
	}
}

// A tick that is cut says how old the row is that it was cut at.
func TestABoundedTickIsCutAtARowOfAnyInstant(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.LMS)
	user := c.user(0)
	c.settle()
	c.slice = 1
	for _, at := range []any{"infinity", nil, "-infinity", "4713-01-01 00:00+00 BC", "294276-12-31 23:59:59.999999+00", "now"} {
		c.useAt(user, 1, at)
	}
	c.settle()
	assert.EqualValues(t, 1, c.total(user))
}

func TestTheFirstAndTheLastUsableInstant(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user := c.user(0)
	c.useAt(user, 1, "2000-01-01 00:00+00")
	c.useAt(user, 2, "2099-12-31 23:59:59.999999+00")
	result := c.tick()
	assert.Zero(t, result.Skipped)
	c.requireTotals()
}

func TestUsageOfTheFutureIsToldWhenItsPeriodBegins(t *testing.T) {
	t.Parallel()
	for _, kind := range []store.Kind{store.Window, store.Full} {
		t.Run("counted by a "+string(kind)+" tick", func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			user := c.user(100)
			c.settle()
			now := c.now()
			begins := time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC)
			c.useAt(user, 70, begins)
			c.useAt(user, 20, begins.Add(time.Hour))
			c.useAt(user, 30, now)
			c.count(kind)
			assert.EqualValues(t, 30, c.total(user))
			// The decision is handed the period as any other; it begins later.
			ninety := int64(90)
			assert.Equal(t, &ninety, c.totalAt(user, begins))
			assert.Equal(t, 1, ask[int](c.site, "SELECT count(*) FROM tokenalert.recounts WHERE due_at = $1 AND user_id = $2", begins, user))
			c.useAt(user, 1, begins.Add(2*time.Hour))
			c.settle()
			assert.Equal(t, 1, c.pending(), "asked for once")

			c.db.SetNow(t, begins)
			c.calendar()
			p, err := c.store.Poll(t.Context())
			require.NoError(t, err)
			assert.True(t, p.Work)
			assert.EqualValues(t, 1, c.tick().Recounts)
			require.Len(t, c.seen, 1)
			assert.EqualValues(t, 91, c.seen[0].TokensUsed)
			assert.EqualValues(t, 91, c.total(user))
			assert.Zero(t, c.pending())
			c.requireTotals()
		})
	}
}

// Rows of an old period come late: with totals they are added, without the
// period is counted whole, the rows included that no tick has ever seen.
func TestLateRowsOfAnOldPeriod(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	user := s.user(100)
	old := ask[time.Time](s, "SELECT date_trunc('month', now() AT TIME ZONE 'UTC' - interval '6 months') AT TIME ZONE 'UTC'")
	insert := func(tokens int, at time.Time) {
		s.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at) VALUES ($1, $2, $3, $4)", user, s.org, tokens, at)
	}
	insert(1, old)
	insert(2, old.Add(time.Hour))
	insert(1000, old.Add(-time.Hour))
	c := counterOn(t, s) // its full count reads what is current, and the period before
	assert.Nil(t, c.totalAt(user, old))
	insert(10, old.Add(2*time.Hour))
	insert(20, old.Add(2*time.Hour))
	insert(500, c.now())
	c.slice = 1
	late, _ := c.begin(user, 0)
	_, err := late.Exec(t.Context(), "UPDATE ai_usage_logs SET created_at = $1, tokens_used = 5000 WHERE xact_id = pg_current_xact_id()", old)
	require.NoError(t, err)
	c.tick()
	want := int64(13)
	assert.Equal(t, &want, c.totalAt(user, old), "all but what this tick does not reach")
	c.settle()
	want = 33
	assert.Equal(t, &want, c.totalAt(user, old))
	require.NoError(t, late.Commit(t.Context()))
	c.settle()
	want = 5033
	assert.Equal(t, &want, c.totalAt(user, old))
	assert.Nil(t, c.totalAt(user, old.Add(-time.Hour)))
	assert.Equal(t, []string{"80 period_closed", "80 told"}, c.alerts(user))
}

func TestNegativeTokensSubtract(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user, credited := c.user(100), c.user(100)
	c.use(user, 90)
	c.use(credited, -50)
	c.settle()
	c.use(user, -30)
	c.tick()
	require.Len(t, c.seen, 1, "the mark can clear")
	assert.EqualValues(t, 60, c.seen[0].TokensUsed)
	assert.EqualValues(t, 60, c.total(user))
	assert.EqualValues(t, -50, c.total(credited))
	c.requireTotals()
}

// A host with wider counts can write sums that no bigint holds.
func TestTotalsBeyondABigintFailNoTick(t *testing.T) {
	t.Parallel()
	s := newSite(t, host.CMS)
	s.exec("DROP VIEW ai_usage_daily, ai_usage_monthly")
	s.exec("ALTER TABLE ai_usage_logs ALTER COLUMN tokens_used TYPE bigint")
	s.up()
	c := counterOn(t, s)
	use := func(user uuid.UUID, tokens int64) {
		c.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) VALUES ($1, $2, $3)", user, c.org, tokens)
	}
	const most = 1<<63 - 1
	user, small := c.user(100), c.user(100)
	for range 3 {
		use(user, most)
		use(small, 30)
		c.tick()
	}
	require.Len(t, c.seen, 2)
	for _, seen := range c.seen {
		if seen.UserID == user {
			assert.EqualValues(t, most, seen.TokensUsed)
		}
	}
	assert.Equal(t, []string{"80 told"}, c.alerts(small))
	assert.True(t, ask[bool](c.site, "SELECT EXISTS (SELECT FROM tokenalert.usage_periods WHERE tokens_used = 3 * 9223372036854775807::numeric)"))
	c.exec("UPDATE ai_usage_logs SET tokens_used = $1 WHERE user_id = $2", int64(-most), user)
	c.settle()
	_, differences := c.reconcile()
	assert.Empty(t, differences)
	c.exec("UPDATE tokenalert.usage_periods SET tokens_used = 0 WHERE user_id = $1", user)
	_, differences = c.reconcile()
	assert.Len(t, differences, 1)
}

// What PostgreSQL 17 and newer can bound, nothing would come of again and again.
func TestNoTransactionTimeoutBoundsWhatTakesLong(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	if ask[*string](c.site, "SELECT current_setting('transaction_timeout', true)") == nil {
		t.Skip("SKIPPED: below PostgreSQL 17 no transaction_timeout")
	}
	c.superExec("ALTER DATABASE " + c.db.Name + " SET transaction_timeout = '1h'")
	c.exec("CREATE TABLE bounds (transaction_timeout text)")
	c.exec("CREATE FUNCTION note_bound() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN INSERT INTO bounds VALUES (current_setting('transaction_timeout')); RETURN NULL; END $$")
	c.exec("CREATE TRIGGER note_bound AFTER INSERT ON tokenalert.ticks FOR EACH ROW EXECUTE FUNCTION note_bound()")
	c.exec("CREATE TRIGGER note_bound AFTER INSERT ON tokenalert.recounts FOR EACH ROW WHEN (NEW.cause = 'budget_begins') EXECUTE FUNCTION note_bound()")
	user := c.user(0)
	c.store = c.runtime() // whose sessions are new
	c.count(store.Full)
	c.use(user, 10)
	c.tick()
	c.budget(c.org, 1000, 1, "UTC")
	c.calendar()
	c.settle()
	_, err := c.store.BeginBudgets(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"0"}, c.list("SELECT DISTINCT transaction_timeout FROM bounds"))
	assert.Equal(t, 5, ask[int](c.site, "SELECT count(*) FROM bounds"))
}
