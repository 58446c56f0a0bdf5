package store_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/internal/host"
	"tokenalert/store"
)

// Whatever the planner knows and expects, progress never falls and is 100 at
// the end and nowhere before.
func TestReconcileSaysHowFarItIs(t *testing.T) {
	t.Parallel()
	const rows = 45_000
	for name, as := range map[string][]string{
		"with statistics":    {"ANALYZE ai_usage_logs"},
		"without statistics": {"DELETE FROM pg_statistic WHERE starelid = 'ai_usage_logs'::regclass", "UPDATE pg_class SET reltuples = -1, relpages = 0 WHERE oid = 'ai_usage_logs'::regclass"},
		"fewer expected":     {"ANALYZE ai_usage_logs", "UPDATE pg_class SET reltuples = 2000 WHERE oid = 'ai_usage_logs'::regclass"},
		"more expected":      {"ANALYZE ai_usage_logs", "UPDATE pg_class SET reltuples = 9000000 WHERE oid = 'ai_usage_logs'::regclass"},
		"without an index":   {"DROP INDEX idx_ai_usage_created, idx_ai_usage_user_created, idx_ai_usage_user", "ANALYZE ai_usage_logs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t, host.CMS)
			user := c.user(0)
			c.exec("ALTER TABLE ai_usage_logs SET (autovacuum_enabled = off)")
			c.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) SELECT $1, $2, 1 FROM generate_series(1, $3)", user, c.org, rows)
			c.useAt(user, 1, c.now().AddDate(0, -4, 0))
			c.settle()
			for _, sql := range as {
				c.superExec(sql)
			}
			var heard []store.Progress
			r, err := c.store.Reconcile(t.Context(), c.periods, func(p store.Progress) { heard = append(heard, p) })
			require.NoError(t, err)
			assert.Equal(t, store.Reconciled{Users: 1, Rows: rows}, r)

			require.Len(t, heard, 1+rows/10_000+1)
			assert.Equal(t, store.Progress{}, heard[0])
			assert.Equal(t, store.Progress{Percent: 100, Rows: rows}, heard[len(heard)-1])
			for i, p := range heard[1:] {
				assert.GreaterOrEqual(t, p.Percent, heard[i].Percent)
				assert.Greater(t, p.Rows, heard[i].Rows)
			}
			assert.Less(t, heard[len(heard)-2].Percent, 100.0, "comparing is to come")
		})
	}
}

// One pass over the table, whatever indexes it has.
func TestReconcileReadsTheTableOnce(t *testing.T) {
	t.Parallel()
	s := migratedSite(t, host.CMS)
	s.db = s.db.Straight() // its sessions must end
	c := counterOn(t, s)
	if ask[int](c.site, "SELECT current_setting('server_version_num')::integer") < 150000 {
		t.Skip("SKIPPED: below PostgreSQL 15 statistics of scans come late")
	}
	user := c.user(0)
	c.exec("INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used) SELECT $1, $2, 1 FROM generate_series(1, 30000)", user, c.org)
	c.settle()
	c.exec("DROP INDEX idx_ai_usage_created, idx_ai_usage_user_created, idx_ai_usage_user")
	scans := func() int64 { // once the sessions that made them have ended, and told of them
		c.store.Reset()
		c.eventually("the sessions do not end", func() bool {
			return ask[bool](c.site, `SELECT NOT EXISTS (SELECT FROM pg_stat_activity
				WHERE datname = current_database() AND application_name = 'tokenalert tick')`)
		})
		return ask[int64](c.site, "SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'ai_usage_logs'::regclass")
	}
	before := scans()
	_, differences := c.reconcile()
	assert.Empty(t, differences)
	assert.Equal(t, before+1, scans())
}

// Each user's own current period, whatever day it begins on.
func TestReconcileLooksAtEachUsersOwnPeriod(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	for _, day := range []int{-3, 1, 2, 10, 15, 20, 27, 28, 29, 30, 31, 40} {
		user := c.user(0)
		c.exec("UPDATE users SET token_limit_reset_day = $2 WHERE id = $1", user, day)
		c.exec(`INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at)
			SELECT $1, $2, g, now() - g * interval '7 hours' FROM generate_series(-10, 250) AS g`, user, c.org)
	}
	c.settle()
	users, differences := c.reconcile()
	assert.EqualValues(t, 12, users)
	assert.Empty(t, differences)

	// A row more on each day, which no tick sees: it counts where it is in the
	// current period, and nowhere else.
	c.superExec(`SET session_replication_role = replica;
		INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, created_at, xact_id)
		SELECT id, organization_id, 1000, now() - g * interval '1 day', NULL FROM users, generate_series(-3, 70) AS g`)
	want := c.list(`
		SELECT format('%s %s %s', u.id, extract(epoch FROM p.start)::bigint, sum(l.tokens_used) - sum(l.tokens_used) FILTER (WHERE l.tokens_used < 1000))
		FROM users u
		CROSS JOIN LATERAL (SELECT tokenalert.period_start(u.token_limit_reset_day, 'UTC', now()) AS start,
		                           tokenalert.period_end(u.token_limit_reset_day, 'UTC', now()) AS end) p
		JOIN ai_usage_logs l ON l.user_id = u.id AND l.created_at >= p.start AND l.created_at < p.end
		GROUP BY u.id, p.start ORDER BY u.id`)
	require.Len(t, want, 12)
	_, differences = c.reconcile()
	var got []string
	for _, d := range differences {
		got = append(got, ask[string](c.site, "SELECT format('%s %s %s', $1::uuid, $2::bigint, $3::bigint)", d.UserID, d.PeriodStart.Unix(), d.Missing()))
	}
	assert.Equal(t, want, got)
}

func TestReconcileFindsUsageWithoutATotal(t *testing.T) {
	t.Parallel()
	c := newCounter(t, host.CMS)
	user, other := c.user(0), c.user(0)
	c.use(user, 100)
	c.use(other, 1)
	c.settle()
	c.exec("DELETE FROM tokenalert.usage_periods WHERE user_id = $1", user)
	users, differences := c.reconcile()
	assert.EqualValues(t, 2, users)
	require.Len(t, differences, 1)
	d := differences[0]
	assert.Equal(t, store.Difference{UserID: user, PeriodStart: d.PeriodStart, Counted: 0, Actual: 100}, d)
	assert.True(t, d.PeriodStart.Equal(ask[time.Time](c.site, "SELECT tokenalert.period_start(1, 'UTC', now())")), d.PeriodStart)
	assert.EqualValues(t, 100, d.Missing())

	c.exec("UPDATE tokenalert.usage_periods SET tokens_used = 31 WHERE user_id = $1", other)
	_, differences = c.reconcile()
	require.Len(t, differences, 2)
	for _, d := range differences {
		if d.UserID == other {
			assert.EqualValues(t, -30, d.Missing())
		}
	}
}
